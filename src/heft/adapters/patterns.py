"""Ranks and alphas of modules by pattern: PEFT takes the first pattern that matches a module's name.

It sorts them when it saves them, so that another may come first in what is loaded. Needs no torch.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

_Value = TypeVar("_Value", int, float)


def first_match(patterns: Iterable[str], name: str) -> str | None:
    """The pattern that PEFT takes for a module; None where none matches."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", name)), None)


def as_saved(patterns: Mapping[str, _Value], names: Collection[str]) -> dict[str, _Value]:
    """Patterns that say the same of these modules in any order: as they are where they do, else the modules' names."""
    chosen = {name: first_match(patterns, name) for name in names}
    if all(first_match(sorted(patterns), name) == pattern for name, pattern in chosen.items()):
        return dict(patterns)
    return {name: patterns[pattern] for name, pattern in sorted(chosen.items()) if pattern is not None}
