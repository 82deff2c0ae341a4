"""Small drawings: two axes and marks, as SVG that takes its colours from the page, or as a file of its own.

Sizes are in units of a drawing 360 wide, the width of a phone, so that text stays readable there. Every text and
attribute is escaped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from heft.text.units import in_digits

WIDTH, HEIGHT = 360, 232
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 28, 40
CHARACTER = 6.1
"""About the width of a character of 11 units, for placing labels."""
_MOST_TICKS = 5
_STYLE = """
svg { background: #fdfcf9; }
text { font: 11px system-ui, sans-serif; fill: #1d1c1a; }
.tick, .axis { fill: #5d5952; }
.grid { stroke: #e3dfd6; }
.rule { stroke: #8d887e; }
.line { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.fill.a, .label.a { fill: #1f5490; } .line.a { stroke: #1f5490; }
.fill.b, .label.b { fill: #a8501a; } .line.b { stroke: #a8501a; }
.fill.c, .label.c { fill: #2c6e49; } .line.c { stroke: #2c6e49; }
.fill.d, .label.d { fill: #7a3b8f; } .line.d { stroke: #7a3b8f; }
.fill.e, .label.e { fill: #6b665d; } .line.e { stroke: #6b665d; }
"""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """What one direction stands for."""

    label: str
    low: float
    high: float
    log: bool = False
    words: Callable[[float], str] | None = None
    whole: bool = False
    """Whether it counts, so that there is nothing between two whole numbers."""

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end and 1 at the high one."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values inside the axis."""
        if not self.log:
            values = _linear_ticks(self.low, self.high)
            return [value for value in values if value.is_integer()] if self.whole else values
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
            inside = [value for value in values if self.low <= value <= self.high]
            if len(inside) <= _MOST_TICKS:
                break
        return inside[:: math.ceil(len(inside) / _MOST_TICKS) or 1]

    def ticks_in_words(self) -> list[tuple[float, str]]:
        """Each tick with its text: by `words`, or in as many digits as tell them apart, three at least."""
        values = self.ticks()
        if self.words is not None:
            return [(value, self.words(value)) for value in values]
        for digits in range(3, 13):
            texts = [in_digits(value, digits) for value in values]
            if len(set(texts)) == len(texts):
                break
        return list(zip(values, texts, strict=True))


def axis(
    label: str,
    values: Sequence[float],
    *,
    low: float | None = None,
    high: float | None = None,
    may_be_log: bool = False,
    words: Callable[[float], str] | None = None,
    whole: bool = False,
) -> Axis:
    """An axis that holds the values, with a margin at each end that is not given; `whole` as for `Axis`.

    It is logarithmic where that is allowed, all values are above 0 and the largest is more than 20 times the smallest.
    """
    least, most = min(values), max(values)
    if may_be_log and least > 0 and most > 20 * least:
        return Axis(label, least / 1.3, most * 1.3, True, words)
    margin = 0.06 * (most - least) or 0.05 * abs(most) or 1.0
    low, high = least - margin if low is None else low, most + margin if high is None else high
    return Axis(label, low, high if high > low else low + 1.0, False, words, whole)


class Drawing:
    """Marks over two axes. The y axis's label stands above it, level, the x axis's below."""

    def __init__(self, x: Axis, y: Axis, height: int = HEIGHT, left: int = LEFT, y_axis: bool = True):
        self.x, self.y, self.height, self.left, self._y_axis = x, y, height, left, y_axis
        self._marks: list[Markup] = []

    def at(self, point: Point) -> Point:
        """The place of a pair of values in the drawing."""
        return (
            round(self.left + self.x.share(point[0]) * (WIDTH - self.left - RIGHT), 2),
            round(self.height - BOTTOM - self.y.share(point[1]) * (self.height - TOP - BOTTOM), 2),
        )

    def line(self, points: Sequence[Point], kind: str) -> None:
        """A line through points."""
        path = " ".join(f"{x},{y}" for x, y in map(self.at, points))
        self._marks.append(Markup('<polyline class="{}" points="{}"/>').format(kind, path))

    def segment(self, start: Point, end: Point, kind: str) -> None:
        """A straight line between two points."""
        self._marks.append(_line(kind, *self.at(start), *self.at(end)))

    def dot(self, point: Point, kind: str, radius: float = 3.0) -> None:
        """A disc; its class says whether it is filled."""
        circle = Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>')
        self._marks.append(circle.format(kind, *self.at(point), round(radius, 2)))

    def text(self, x: float, y: float, text: str, kind: str = "label", anchor: str = "start") -> None:
        """Text at a place of the drawing (not at values)."""
        self._marks.append(_text(x, y, text, kind, anchor))

    def svg(self, label: str) -> Markup:
        """The whole drawing; `label` says in a few words what it is."""
        top = 0 if self._y_axis else TOP - 8
        return Markup('<svg role="img" aria-label="{}" viewBox="0 {} {} {}">{}{}</svg>').format(
            label, top, WIDTH, self.height - top, self._axes(), Markup("").join(self._marks)
        )

    def file(self, label: str) -> str:
        """The text of an SVG file, which brings its own colours."""
        svg = str(self.svg(label)).replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" ', 1)
        return svg.replace(">", f"><style>{_STYLE}</style>", 1) + "\n"

    def _axes(self) -> Markup:
        bottom, right = self.height - BOTTOM, WIDTH - RIGHT
        parts = [
            _text(0, 12, self.y.label, "axis", "start"),
            _text(right, self.height - 6, self.x.label, "axis", "end"),
            _line("rule", self.left, bottom, right, bottom),
        ]
        for value, text in self.y.ticks_in_words() if self._y_axis else ():
            y = self.at((self.x.low, value))[1]
            parts.append(_line("grid", self.left, y, right, y))
            parts.append(_text(self.left - 6, y + 4, text, "tick", "end"))
        for value, text in self.x.ticks_in_words():
            x = self.at((value, self.y.low))[0]
            parts.append(_line("rule", x, bottom, x, bottom + 4))
            parts.append(_text(x, bottom + 17, text, "tick", "middle"))
        return Markup("").join(parts)


def shortened(text: str, most: int) -> str:
    """Text of at most so many characters."""
    return text if len(text) <= most else text[: max(0, most - 1)] + "…"


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def _linear_ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / _MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [round(step * i, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
