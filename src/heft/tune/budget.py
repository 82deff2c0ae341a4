"""What a search may spend: `30m` of time, `2e15flop` of arithmetic, or as many FLOPs as `3epochs` of plain LoRA."""

import math
import re
from dataclasses import dataclass

from heft.errors import HeftError
from heft.text.units import in_flops, in_time

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FORM = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]+)\s*")


@dataclass(frozen=True)
class Budget:
    """What a search may spend.

    Attributes:
        kind: "seconds", "flops" or "epochs".
        amount: how much of it.
        text: as it was given.
    """

    kind: str
    amount: float
    text: str


def parse_budget(text: str) -> Budget:
    """Read a budget such as `30m`, `1.5h`, `90s`, `2e15flop` or `3epochs`.

    Raises:
        HeftError: it is none.
    """
    expected = "expected a time (90s, 30m, 2h), FLOPs (2e15flop) or passes of plain LoRA (3epochs)"
    found = _FORM.fullmatch(text)
    if found is None:
        raise HeftError(f"--budget {text}: {expected}")
    number, unit = found.groups()
    try:
        amount = float(number)
    except ValueError:
        raise HeftError(f"--budget {text}: {number!r} is no number; {expected}") from None
    if not (math.isfinite(amount) and amount > 0):
        raise HeftError(f"--budget {text}: give an amount above 0; {expected}")
    unit = unit.lower()
    if unit in SECONDS:
        return Budget("seconds", amount * SECONDS[unit], text.strip())
    kinds = {"flop": "flops", "flops": "flops", "epoch": "epochs", "epochs": "epochs"}
    if unit not in kinds:
        raise HeftError(f"--budget {text}: unknown unit {unit!r}; {expected}")
    return Budget(kinds[unit], amount, text.strip())


def in_unit(amount: float, unit: str) -> str:
    """An amount of "seconds" or "flops" in words."""
    return in_time(amount) if unit == "seconds" else in_flops(amount)
