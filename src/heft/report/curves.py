"""Learning curves: loss and learning rate of every step, stage after stage, and why each stage gave way to the next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from heft.compare.runs import RunFiles, read_metrics
from heft.report.parts import Panel, Section
from heft.report.subject import Subject, Trained, trained
from heft.results.summary import StageSummary
from heft.text.listing import listed
from heft.text.svg import CHARACTER, TOP, Axis, Drawing, Point, axis, shortened
from heft.text.units import count, in_digits, several

FEWEST_SMOOTHED = 20
"""Logged losses from which they are smoothed."""
_RATE_HEIGHT = 176


@dataclass(frozen=True)
class StageCurve:
    """What was logged in one stage of one run.

    Attributes:
        stage: its name.
        start, end: optimizer steps taken in the run before it and at its end.
        loss, validation: (steps taken in the run, mean −ln p of an answer's tokens), of training and validation rows.
        rate: (steps taken in the run, learning rate).
        lost: logged losses that were no finite number.
        ended: why the stage ended, as a sentence.
    """

    stage: str
    start: int
    end: int
    loss: Sequence[Point]
    validation: Sequence[Point]
    rate: Sequence[Point]
    lost: int
    ended: str


def stage_curves(run: RunFiles) -> list[StageCurve]:
    """The curves of a run's finished stages, in order."""
    logged = read_metrics(run.path)
    curves, done = [], 0
    for evaluation in run.evaluations:
        if evaluation.stage == "base":
            continue
        rows = [row for row in logged if row.get("stage") == evaluation.stage]
        points = {
            key: [
                (done + row["step"], row[key])
                for row in rows
                if {type(row.get("step")), type(row.get(key))} <= {int, float}
            ]
            for key in ("loss", "eval_loss", "learning_rate")
        }
        finite = {key: [p for p in found if math.isfinite(p[1])] for key, found in points.items()}
        lost = sum(len(points[key]) - len(finite[key]) for key in ("loss", "eval_loss"))
        end = done + evaluation.summary.steps
        why = why_ended(evaluation.summary)
        curves.append(StageCurve(evaluation.stage, done, end, *finite.values(), lost, why))
        done = end
    return curves


def why_ended(summary: StageSummary) -> str:
    """Why a stage ended, from its entry of summary.json."""
    return (summary.ended_because or "its planned steps were taken").rstrip(".")


def section(subject: Subject) -> Section:
    """A panel for each training, its seeds over one another."""
    panels = [_panel(group) for group in trained(subject.arms)]
    shown = [panel for panel in panels if panel is not None]
    about = (
        "Loss is the mean of −ln p over an answer’s tokens. Full lines: training rows, the mean over neighbouring"
        " logged steps, one line a seed, with the raw loss faint behind it; dots: validation rows, where a stage has"
        " some. An upright line marks the switch from one stage to the next."
    )
    return Section("curves", "Learning curves", [about if shown else "Nothing was trained, or nothing logged."], shown)


def _panel(group: Trained) -> Panel | None:
    by_run = [stage_curves(run) for run in group.runs]
    curves = [curve for run in by_run for curve in run]
    losses = [p[1] for curve in curves for p in (*curve.loss, *curve.validation)]
    if not losses:
        return None
    x = axis("optimizer steps", [0, max(curve.end for curve in curves)], low=0, words=count, whole=True)
    drawing = Drawing(x, axis("loss", losses, may_be_log=True))
    for run in by_run:
        for curve in run:
            if len(curve.loss) == 1:
                drawing.dot(curve.loss[0], "fill a", 2)
            smooth = smoothed(curve.loss)
            if smooth != curve.loss:
                drawing.line(curve.loss, "line thin a faint")
            drawing.line(smooth, "line a")
            if curve.validation:
                drawing.line(curve.validation, "line thin b")
            for point in curve.validation:
                drawing.dot(point, "fill b", 2.2)
        for curve in run[1:]:
            drawing.segment((curve.start, drawing.y.low), (curve.start, drawing.y.high), "switch")
    _name_stages(drawing, by_run[0])
    scale = " (logarithmic scale)" if drawing.y.log else ""
    seeds = [run.seed for run in group.runs]
    whose = f", seeds {listed(list(map(str, seeds)))}" if len(seeds) > 1 else ""
    told = f"Loss{scale}{whose}. {' '.join(_told(seeds, by_run))}"
    loss = drawing.svg(f"Loss by step, {group.title}")
    return Panel(group.title, loss, told, second=_rates(group.title, by_run, x))


def smoothed(points: Sequence[Point]) -> Sequence[Point]:
    """The mean of each point and its neighbours, a tenth of the points together; fewer than 20 stay as they are.

    At the ends the neighbours are as many on either side as there are on the nearer one.
    """
    if len(points) < FEWEST_SMOOTHED:
        return points
    most = len(points) // FEWEST_SMOOTHED
    found = []
    for place, (step, _) in enumerate(points):
        reach = min(most, place, len(points) - 1 - place)
        near = [value for _, value in points[place - reach : place + reach + 1]]
        found.append((step, sum(near) / len(near)))
    return found


def _rates(title: str, by_run: Sequence[Sequence[StageCurve]], x: Axis) -> Markup:
    """The learning rate over the same steps, of the first seed; nothing where none was logged."""
    curves = [curve for curve in by_run[0] if curve.rate]
    if not curves:
        return Markup()
    most = max(rate for curve in curves for _, rate in curve.rate)
    drawing = Drawing(x, axis("learning rate", [0, most], low=0, words=lambda value: f"{value:g}"), _RATE_HEIGHT)
    for curve in curves:
        drawing.line(curve.rate, "line thin quiet")
    for curve in by_run[0][1:]:
        drawing.segment((curve.start, drawing.y.low), (curve.start, drawing.y.high), "switch")
    return drawing.svg(f"Learning rate by step, {title}")


def _name_stages(drawing: Drawing, curves: Sequence[StageCurve]) -> None:
    """Each stage's name over its part, as far as there is room."""
    for curve in curves:
        start, end = (drawing.at((step, drawing.y.low))[0] for step in (curve.start, curve.end))
        room = int((end - start) / CHARACTER)
        if room >= 3:
            drawing.text((start + end) / 2, TOP - 2, shortened(curve.stage, room), "label", "middle")


def _told(seeds: Sequence[int], by_run: Sequence[Sequence[StageCurve]]) -> list[str]:
    """A sentence a stage: from which loss to which in each seed, and why it ended."""
    sentences = []
    for name in dict.fromkeys(curve.stage for curves in by_run for curve in curves):
        found = [(seed, c) for seed, curves in zip(seeds, by_run, strict=True) for c in curves if c.stage == name]
        parts = [several(found[0][1].end - found[0][1].start, "step")]
        for what, kind in (("loss", "loss"), ("validation", "validation")):
            ends = [_ends(getattr(curve, kind)) for _, curve in found if getattr(curve, kind)]
            parts += [f"{what} {', '.join(ends)}"] if ends else []
        if lost := sum(curve.lost for _, curve in found):
            parts.append(f"{lost} logged losses were not finite")
        whys = {curve.ended for _, curve in found}
        ended = whys.pop() if len(whys) == 1 else "; ".join(f"seed {seed}: {curve.ended}" for seed, curve in found)
        sentences.append(f"{name}: {', '.join(parts)}. It ended because: {ended}.")
    return sentences


def _ends(points: Sequence[Point]) -> str:
    return f"{in_digits(points[0][1])} → {in_digits(points[-1][1])}"
