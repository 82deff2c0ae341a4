"""Modules that compute by another class for a while, with weights, hooks, names and saved files untouched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def of_class(modules: Sequence[nn.Module], other: type[nn.Module]) -> Iterator[int]:
    """Inside, these modules are of another class, one of their own's kin; afterwards of their own again.

    Yields:
        How many they are.
    """
    before = [type(module) for module in modules]
    for module in modules:
        module.__class__ = other
    try:
        yield len(modules)
    finally:
        for module, own in zip(modules, before, strict=True):
            module.__class__ = own
