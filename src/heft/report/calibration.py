"""Whether a model that says 80 % is right in 80 of 100 cases.

Expected calibration error: Naeini, Cooper and Hauskrecht, AAAI 2015, with ten bins of equal width: the mean over
answers of the gap between a bin's mean confidence and its share of right answers. Confidence is the largest share of
the softmax over a question's choices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from heft.compare.arms import Arm
from heft.report.parts import Cell, Heading, Panel, Section, Table
from heft.report.subject import Subject
from heft.results.proportions import wilson
from heft.results.records import Record
from heft.text.listing import listed
from heft.text.svg import Axis, Drawing
from heft.text.units import count, percent, points

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Answers of like confidence.

    Attributes:
        low, high: bounds of the confidence.
        n, right: answers, and how many of them were right.
        confidence: their mean confidence.
    """

    low: float
    high: float
    n: int
    right: int
    confidence: float

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.n


def confidence(log_likelihoods: Sequence[float]) -> float:
    """The largest share of the softmax."""
    most = max(log_likelihoods)
    return 1 / sum(math.exp(value - most) for value in log_likelihoods)


def reliability(records: Sequence[Record]) -> list[Bin]:
    """The bins that hold answers, from the least confident; none where answers were generated."""
    gathered: dict[int, list[tuple[float, bool]]] = {}
    for record in records:
        if not record.log_likelihoods:
            return []
        sure = confidence(record.log_likelihoods)
        gathered.setdefault(min(int(sure * BINS), BINS - 1), []).append((sure, record.correct))
    return [
        Bin(place / BINS, (place + 1) / BINS, len(rows), sum(ok for _, ok in rows), sum(c for c, _ in rows) / len(rows))
        for place, rows in sorted(gathered.items())
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error, a share from 0 to 1."""
    total = sum(b.n for b in bins)
    return sum(b.n * abs(b.accuracy - b.confidence) for b in bins) / total


def section(subject: Subject) -> Section:
    """A panel for each arm, the answers of its seeds together."""
    panels = [panel for panel in map(_panel, subject.arms) if panel is not None]
    if not panels:
        why = "Undefined: answers were generated, so there are no choices to spread confidence over."
        return Section("calibration", "Calibration", [why])
    about = (
        "Confidence is the largest share of the softmax over the choices’ log-likelihoods; on the dotted line it equals"
        f" the share of right answers. {_normalised(subject)} Bars are Wilson’s 95 % intervals for the number of"
        " questions in one seed; a dot’s area goes with the number of answers."
    )
    plain = f"How far the model’s confidence can be trusted: {_plain(subject)}."
    return Section("calibration", "Calibration", [plain, about], panels, folded="Right answers by confidence")


def _plain(subject: Subject) -> str:
    """Of the arm that the page is about: how sure it is, and how often it is right."""
    records = [record for run in subject.best.runs for record in run.after(subject.best.stage).records]
    if not (bins := reliability(records)):
        return "not known where answers are generated"
    mean, right = (sum(value) / len(records) for value in ([b.n * b.confidence for b in bins], [b.right for b in bins]))
    return f"{subject.best.name} is {percent(mean)} sure on average, and right in {percent(right)} of the rows"


def _normalised(subject: Subject) -> str:
    ways = {arm.runs[0].recipe.get("evaluation", {}).get("normalize", "none") for arm in subject.arms}
    if ways == {"none"}:
        return "Log-likelihoods were taken whole, not normalised by length."
    units = listed(sorted(way for way in ways if way != "none"))
    part = "" if "none" not in ways else " in some arms"
    return f"Log-likelihoods were divided by the choices’ length in {units}{part}, so the shares are no probabilities."


def _panel(arm: Arm) -> Panel | None:
    records = [record for run in arm.runs for record in run.after(arm.stage).records]
    bins = reliability(records)
    if not bins:
        return None
    spoken = {"low": 0.0, "high": 100.0, "words": count}
    drawing = Drawing(Axis("confidence, %", **spoken), Axis("right, %", **spoken))
    drawing.segment((0, 0), (100, 100), "reference")
    for b in bins:
        questions = math.ceil(b.n / len(arm.runs))  # seeds answer the same questions, so they add none
        low, high = wilson(min(questions, round(b.right / len(arm.runs))), questions)
        x = 100 * b.confidence
        drawing.segment((x, 100 * low), (x, 100 * high), "bar quiet")
    for b in bins:
        radius = 2 + 6 * math.sqrt(b.n / len(records))
        drawing.dot((100 * b.confidence, 100 * b.accuracy), "fill a", radius)
    mean = sum(b.n * b.confidence for b in bins) / len(records)
    right = sum(b.right for b in bins) / len(records)
    lean = "over" if mean > right else "under"
    text = (
        f"Expected calibration error {points(calibration_error(bins)).lstrip('+')} points over {BINS} bins. Mean"
        f" confidence {percent(mean)}, right {percent(right)}: {lean}confident on the whole."
    )
    return Panel(arm.name, drawing.svg(f"Right answers by confidence, {arm.name}"), text, _numbers(arm.name, bins))


def _numbers(title: str, bins: Sequence[Bin]) -> Table:
    headings = [Heading("confidence", is_text=True), *map(Heading, ("answers", "mean confidence", "right"))]
    rows = [
        [
            *map(
                Cell,
                (f"{100 * b.low:.0f}–{100 * b.high:.0f} %", f"{b.n:,}", percent(b.confidence), percent(b.accuracy)),
            )
        ]
        for b in bins
    ]
    return Table(f"Answers by confidence, {title}", headings, rows)
