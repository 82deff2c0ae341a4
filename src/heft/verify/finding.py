"""What a check found, in numbers and in words. No torch."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from heft.storage.atomic import finite

OK = "ok"
FAILED = "FAILED"
DOES_NOT_APPLY = "does not apply"
_INDENT = " " * 7


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        check: its name.
        state: `OK`, `FAILED` or `DOES_NOT_APPLY`.
        compared: what was compared with what, and why where the check does not apply or broke off.
        quantity: what `difference` is a difference of.
        difference: the largest absolute one, or the median over tokens where `why` says so; NaN where a side is NaN;
            None where nothing was compared.
        tolerance: the most that passes, or with `must_exceed` what the difference has to exceed.
        why: why that tolerance.
        must_exceed: whether the two sides have to differ.
        differ, of, things: `differ` of `of` predictions, tokens or tensors (`things`) differ; None: none are counted.
    """

    check: str
    state: str
    compared: str
    quantity: str = ""
    difference: float | None = None
    tolerance: float | None = None
    why: str = ""
    must_exceed: bool = False
    differ: int | None = None
    of: int | None = None
    things: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return finite(asdict(self))

    def lines(self) -> list[str]:
        """The finding as it is printed: a heading, and what follows it."""
        if self.difference is None:
            return [f"{self.state:<6} {self.check}", f"{_INDENT}{self.compared}"]
        counted = "" if self.differ is None else f", {self.differ:,} of {self.of:,} {self.things}"
        bound = "has to exceed" if self.must_exceed else "tolerance"
        return [
            f"{self.state:<6} {self.check}: {self.quantity} differ by at most {self.difference:.3g}{counted}",
            f"{_INDENT}{self.compared}",
            f"{_INDENT}{bound} {self.tolerance:.3g}: {self.why}",
        ]


def judged(
    check: str,
    compared: str,
    quantity: str,
    difference: float,
    tolerance: float,
    why: str,
    must_exceed: bool = False,
    **counted: Any,
) -> Finding:
    """A finding whose state follows from its numbers; NaN never passes. `counted`: `differ`, `of` and `things`."""
    passes = difference > tolerance if must_exceed else difference <= tolerance
    state = OK if passes else FAILED
    return Finding(check, state, compared, quantity, difference, tolerance, why, must_exceed, **counted)


def most(values: Iterable[float]) -> float:
    """The largest of some numbers; NaN where one is NaN, which Python's own `max` loses unless it comes first."""
    return max(values, key=lambda value: (value != value, value))


def does_not_apply(check: str, why: str) -> Finding:
    """A check that does not apply to this adapter."""
    return Finding(check, DOES_NOT_APPLY, why)


def broken_off(check: str, error: Exception) -> Finding:
    """A check that ended in an error, which is a failure of what it checks."""
    return Finding(check, FAILED, f"it ended in {type(error).__name__}: {str(error).strip() or 'no message'}")
