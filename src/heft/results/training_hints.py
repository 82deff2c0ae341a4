"""Hints from how a stage was trained, and all hints of a run (heft.results.hints has those from its answers)."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from heft.results.hints import ANSWER_RULES, FEWEST_STEPS, GOOD, MANY_STEPS, Hint, RunFacts, StageFacts
from heft.text.listing import listed
from heft.text.units import in_digits, percent, several

FEWEST_LOSSES = 6
"""Logged losses that a slope is taken from, at least."""
STEEP = 3.0
"""How many of its standard errors a slope must lie below 0."""
SMALLEST_FALL = 0.05
"""Share of its level that the loss must fall by in the last third of a stage."""
NEAR_ZERO = 0.05
"""Training loss, in nats per answer token, below which there is nothing left to learn from the rows."""
RISEN = 1.1
"""How many times its lowest value the last validation loss must be."""
FEWEST_VALIDATIONS = 3
"""Validation losses that say whether they rise, at least."""


def hints_of(run: RunFacts) -> list[Hint]:
    """All hints, none where nothing is wrong."""
    return [hint for rule in (*ANSWER_RULES, too_few_steps, still_falling, overfitted) for hint in rule(run)]


def too_few_steps(run: RunFacts) -> list[Hint]:
    """A stage took fewer than 20 optimizer steps, as planned, and the last accuracy is below 98 %."""
    if run.last.summary.accuracy >= GOOD:
        return []
    hints = []
    for stage in run.trained:
        steps = stage.summary.steps
        if stage.hardly_begun:
            seen = f"Stage {stage.name} took {several(steps, 'optimizer step')}."
            means = f"Fewer than {FEWEST_STEPS} steps seldom train anything."
            hints.append(Hint("too_few_steps", stage.name, seen, means, f"Write {stage.more(MANY_STEPS / steps)}."))
    return hints


def still_falling(run: RunFacts) -> list[Hint]:
    """The last stage's loss falls in its last third: by 5 % or more, with a slope 3 standard errors below 0.

    Earlier stages are left alone, since the next one goes on from where they end; so is one that early stopping ended.
    """
    last = run.last
    third = last.losses[-(len(last.losses) // 3) :]
    enough = last.summary.steps >= FEWEST_STEPS and len(last.losses) >= 3 * FEWEST_LOSSES
    if not enough or last.summary.ended == "early_stopping" or last.summary.accuracy >= GOOD:
        return []
    (slope, intercept), covariance = np.polyfit(*zip(*third, strict=True), 1, cov=True)
    start, end = (float(intercept + slope * step) for step in (third[0][0], third[-1][0]))
    if slope > -STEEP * np.sqrt(covariance[0, 0]) or start - end < SMALLEST_FALL * abs(start) or end <= NEAR_ZERO:
        return []
    seen = (
        f"The loss of stage {last.name} still fell at the end: {in_digits(start)} → {in_digits(end)} in its last third."
    )
    return [Hint("still_falling", last.name, seen, "More training would lower it further.", f"Write {last.more(2)}.")]


def overfitted(run: RunFacts) -> list[Hint]:
    """A stage fits its training rows, while rows that it was not trained on gain nothing from it.

    Either its last tenth of training losses is below 0.05 on average, and its accuracy neither rose nor is above 90 %;
    or its last validation loss is 1.1 times the lowest or more, and the last weights were kept.
    """
    hints = []
    for before, after in run.steps:
        if not (seen := _learned_by_heart(before, after) or _risen(after)):
            continue
        means = "It fits the training rows, not the task (overfitting)."
        wanted = {"best_checkpoint": "true"} if after.settings.get("holdout") else {"holdout": "0.1"}
        wanted |= {"early_stopping": "true"}
        lines = [f"`stages.{after.name}.{key}: {to}`" for key, to in wanted.items() if not after.settings.get(key)]
        do = f"Write {listed(lines)}, or train on more rows." if lines else "Train on more rows."
        hints.append(Hint("overfitted", after.name, seen, means, do))
    return hints


def _learned_by_heart(before: StageFacts, after: StageFacts) -> str:
    losses = [loss for _, loss in after.losses]
    if not losses or after.summary.accuracy > min(before.summary.accuracy, 0.9):
        return ""
    level = fmean(losses[-max(1, len(losses) // 10) :])
    if level >= NEAR_ZERO:
        return ""
    accuracies = f"{percent(before.summary.accuracy)} before and {percent(after.summary.accuracy)} after it"
    return f"The training loss of stage {after.name} ended at {in_digits(level)}, while accuracy is {accuracies}."


def _risen(stage: StageFacts) -> str:
    found: Sequence[float] = [loss for _, loss in stage.validation]
    if len(found) < FEWEST_VALIDATIONS or found[-1] < RISEN * min(found) or stage.settings.get("best_checkpoint"):
        return ""
    lowest = min(stage.validation, key=lambda point: point[1])
    return (
        f"The validation loss of stage {stage.name} rose to {in_digits(found[-1])} after its lowest,"
        f" {in_digits(lowest[1])} at step {lowest[0]:,}."
    )
