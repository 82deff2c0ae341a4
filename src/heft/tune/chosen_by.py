"""What trials are chosen by, in words: expected errors where rows have choices, else the loss of an answer token.

heft.tune.measure computes either; trials and files for programs call it `loss`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from heft.data.encode import EncodedExample
from heft.text.units import percent, points, points_interval


@dataclass(frozen=True)
class ChosenBy:
    """How a figure is written.

    Attributes:
        name: "expected errors" or "validation loss".
        lowest: "the fewest expected errors", in a sentence.
        lower: what more training may find.
        is_share: whether it is one of rows, written in percent; differences are points then.
    """

    name: str
    lowest: str
    lower: str
    is_share: bool

    def figure(self, loss: float) -> str:
        """`37.1 %` or `0.4312`."""
        return percent(loss) if self.is_share else f"{loss:.4f}"

    def difference(self, difference: float, interval: tuple[float, float] | None) -> str:
        """`+0.6 (−3.1 to +4.2)`, with three digits of a loss; without an interval where there is none."""
        if self.is_share:
            bounds = "" if interval is None else f" ({points_interval(interval)})"
            return points(difference) + bounds
        bounds = "" if interval is None else f" ({interval[0]:+.3f} to {interval[1]:+.3f})"
        return f"{difference:+.3f}{bounds}".replace("-", "−")

    def fall(self, loss: float) -> str:
        """A fall of the figure, of any size: `0.021 points` or `0.00043`."""
        return f"{100 * loss:.4g} points" if self.is_share else f"{loss:.4g}"


EXPECTED_ERRORS = ChosenBy("expected errors", "the fewest expected errors", "fewer", True)
LOSS = ChosenBy("validation loss", "the lowest validation loss", "a lower one", False)


def chosen_by(rows: Sequence[EncodedExample]) -> ChosenBy:
    """Of trials that are measured on such rows."""
    return EXPECTED_ERRORS if rows[0].choices else LOSS
