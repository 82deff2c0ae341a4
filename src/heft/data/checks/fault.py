"""What a check found, in words."""

from collections.abc import Sequence
from dataclasses import dataclass

from heft.data.encode import EncodedExample
from heft.recipe.recipe import CheckName

_SHOWN = 80


@dataclass(frozen=True)
class Fault:
    """What one check found.

    Attributes:
        check: its name, which is also its entry in a recipe's `allow`.
        found: how many rows, and what is wrong with them.
        advice: what to do about it, as an order.
    """

    check: CheckName
    found: str
    advice: str

    def message(self, allowed: Sequence[CheckName]) -> str:
        """The fault with both ways out: mend the rows, or allow it beside what is allowed already."""
        return f"{self.found}; {self.advice}, or set allow: [{', '.join([*allowed, self.check])}] if this is meant"


def count(rows: Sequence[EncodedExample], total: int, split: str) -> str:
    """`3 of 720 train rows`."""
    return f"{len(rows):,} of {total:,} {split} rows"


def such_as(row: EncodedExample) -> str:
    """The beginning of a row's prompt and its place, to find the row by, with control characters escaped."""
    text, place = row.example.prompt, row.example.place
    return f"such as {text[:_SHOWN]!r}" + ("…" if len(text) > _SHOWN else "") + (f" ({place})" if place else "")
