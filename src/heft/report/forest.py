"""Differences between arms as points with their intervals, zero marked."""

from heft.report.parts import Panel
from heft.report.results import pair_name
from heft.report.subject import Subject
from heft.text.svg import BOTTOM, CHARACTER, LEFT, RIGHT, TOP, WIDTH, Axis, Drawing, axis, shortened
from heft.text.units import in_digits, points, points_interval

_ROW = 40


def differences(subject: Subject) -> list[Panel]:
    """One panel of all pairs; none where no pair has an interval."""
    pairs = [pair for pair in subject.comparison.pairs if pair.interval is not None]
    if not pairs:
        return []
    ends = [100 * end for pair in pairs for end in (*pair.interval, 0.0)]
    x = axis("points of accuracy", ends, words=_spoken)
    height = TOP + BOTTOM + _ROW * len(pairs)
    drawing = Drawing(x, Axis("", 0, len(pairs)), height, left=RIGHT, y_axis=False)
    drawing.segment((0, 0), (0, len(pairs)), "reference")
    most = int((WIDTH - LEFT) / CHARACTER)
    for place, pair in enumerate(pairs):
        y = len(pairs) - place - 0.7
        low, high = (100 * end for end in pair.interval)
        kind = "a" if pair.verdict in ("better", "worse") else "quiet"
        drawing.segment((low, y), (high, y), f"bar {kind}")
        drawing.dot((100 * pair.difference, y), f"fill {kind}", 4)
        drawing.text(RIGHT, TOP + _ROW * place + 12, shortened(pair_name(pair), most))
    svg = drawing.svg("Differences in accuracy with their 95 % intervals")
    told = "; ".join(
        f"{pair_name(pair)}: {points(pair.difference)} ({points_interval(pair.interval)})" for pair in pairs
    )
    return [Panel("", svg, f"Difference in points, with its 95 % interval; grey where nothing is shown. {told}.")]


def _spoken(value: float) -> str:
    return in_digits(value) if value <= 0 else f"+{in_digits(value)}"
