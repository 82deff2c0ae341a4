"""`heft verify`: whether an adapter directory equals itself on this machine, every check with its difference."""

from heft._lazy import lazy_attributes

__all__ = ["verify"]

__getattr__, __dir__ = lazy_attributes(__name__, {"verify": "heft.verify.verifier"})
