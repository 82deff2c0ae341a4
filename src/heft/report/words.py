"""Figures as people read them. What is undefined is not a figure and has no words here (see parts.figure)."""

from heft.compare.verdicts import p_text, points
from heft.text.units import in_bytes, in_digits, in_flops, in_time, interval, percent

__all__ = [
    "count",
    "in_bytes",
    "in_digits",
    "in_flops",
    "in_time",
    "interval",
    "listed",
    "p_text",
    "percent",
    "points",
    "points_interval",
    "several",
]


def points_interval(bounds: tuple[float, float]) -> str:
    """An interval of a difference, in percentage points: `−0.4 to +3.1`."""
    return f"{points(bounds[0])} to {points(bounds[1])}"


def count(number: float) -> str:
    """A whole number with separators."""
    return f"{round(number):,}"


def several(number_: int, thing: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number_:,} {thing}{'' if number_ == 1 else 's'}"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
