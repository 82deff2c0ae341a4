"""Figures as people read them; those that may be None are a dash then."""

from collections.abc import Sequence

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MINUS = str.maketrans("-", "−")


def percent(share: float | None) -> str:
    """`83.4 %`, or a dash where the figure does not exist."""
    return "–" if share is None else f"{100 * share:.1f} %"


def interval(bounds: tuple[float, float] | None) -> str:
    """An interval of a share, `36.6–47.7 %`, or a dash where there is none."""
    return "–" if bounds is None else f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f} %"


def points(share: float) -> str:
    """A difference in percentage points, with its sign: `+3.1`."""
    return f"{100 * share:+.1f}".translate(_MINUS)


def points_interval(bounds: tuple[float, float]) -> str:
    """An interval of a difference, in percentage points: `−0.4 to +3.1`."""
    return f"{points(bounds[0])} to {points(bounds[1])}"


def unsigned_points(share: float) -> str:
    """A size in percentage points: `3.1`."""
    return f"{100 * share:.1f}"


def p_text(p: float) -> str:
    """A p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(number: float) -> str:
    """A whole number with separators."""
    return f"{number:,.0f}"


def several(number: int, thing: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def in_bytes(count: float | None) -> str:
    """`1.2 GB`, or a dash where the figure does not exist."""
    return _scaled(count, "B")


def in_flops(count: float | None) -> str:
    """`3.4 TFLOP`, or a dash where the figure does not exist."""
    return _scaled(count, "FLOP")


def in_time(seconds: float | None) -> str:
    """`42 s`, `3.1 min` or `2.0 h`; a dash where nothing was measured."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def in_digits(value: float, digits: int = 3) -> str:
    """So many significant digits: `0.0123`, `12.3`, `1.23 × 10⁷`; whole numbers from 1,000 on."""
    if value == 0:
        return "0"
    if not 0.001 <= abs(value) < 100_000:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}".translate(_MINUS)
    if abs(value) >= 1000:
        return f"{value:,.0f}".translate(_MINUS)
    return without_exponent(f"{value:.{digits}g}").translate(_MINUS)


def without_exponent(text: str) -> str:
    """A number as Python writes it, such as 1e+03, without an exponent where it is a whole number: `1,000`."""
    return f"{float(text):,.0f}" if "e+" in text else text


def scaled(count: float, steps: Sequence[tuple[float, str]]) -> str:
    """A figure of three digits in the largest unit that it fills once it is rounded; `steps` are from the least on."""
    rounded = float(f"{count:.3g}")
    size, unit = next((step for step in reversed(steps) if rounded >= step[0]), steps[0])
    return f"{without_exponent(f'{count / size:.3g}')} {unit}"


def _scaled(count: float | None, unit: str) -> str:
    if count is None:
        return "–"
    return scaled(count, [(1000.0**step, prefix + unit) for step, prefix in enumerate(("", *"kMGTPE"))])
