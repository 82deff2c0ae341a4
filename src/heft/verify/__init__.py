"""`heft verify`: whether an adapter directory equals itself on this machine, every check with its difference."""

from heft.verify.verifier import verify

__all__ = ["verify"]
