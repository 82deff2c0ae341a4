"""What a sweep found: every configuration on the rows held back from training, best first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heft.evaluation.evaluator import choice_record
from heft.results.metrics import wilson
from heft.sweep.learner import Learner
from heft.sweep.training import SideBySide


@dataclass(frozen=True)
class Result:
    """One configuration.

    Attributes:
        name: c00, c01, …
        values: what the grid gave it.
        loss: mean of −ln p over the answer tokens of the held-back rows; None where it diverged.
        accuracy: share of the held-back rows answered rightly; None where answers are generated or it diverged.
        interval: Wilson's 95 % interval of the accuracy.
        n: held-back rows.
        steps: optimiser steps taken.
        trainable_parameters: numbers that were trained.
        at_plateau: whether its held-back loss ended it before its steps did.
        diverged: whether a loss, a gradient or a weight was no number.
        losses: training loss of each step.
        held_back_losses: (step, loss) of each evaluation on the way.
    """

    name: str
    values: dict[str, Any]
    loss: float | None
    accuracy: float | None
    interval: tuple[float, float] | None
    n: int
    steps: int
    trainable_parameters: int
    at_plateau: bool
    diverged: bool
    losses: list[float]
    held_back_losses: list[tuple[int, float]]


def rank(training: SideBySide, normalize: str) -> list[Result]:
    """Measure all configurations on the held-back rows; lowest loss first, then highest accuracy, then grid order.

    Raises:
        HeftError: held-back rows have no finite loss, whatever the configuration.
    """
    sound = [learner for learner in training.learners if not learner.diverged]
    passes = training.passes
    wanted = [
        (learner.number, row, continuation)
        for row in training.held_back
        for continuation in dict.fromkeys((passes.examples[row].answer, *passes.examples[row].choices))
        for learner in sound
    ]
    values = training.trials.measure([passes.copy(*key) for key in wanted])
    costs = dict(zip(wanted, values, strict=True))
    results = [_measure(learner, training, costs, normalize) for learner in training.learners]
    return sorted(results, key=lambda r: (math.inf if r.loss is None else r.loss, -(r.accuracy or 0.0)))


def _measure(learner: Learner, training: SideBySide, costs: dict, normalize: str) -> Result:
    examples = [(row, training.passes.examples[row]) for row in training.held_back]
    loss = accuracy = interval = None
    if not learner.diverged:
        total = sum(costs[learner.number, row, example.answer] for row, example in examples)
        loss = total / sum(len(example.answer) for _, example in examples)
    if loss is not None and all(example.choices for _, example in examples):
        scores = [[-costs[learner.number, row, choice] for choice in example.choices] for row, example in examples]
        records = [choice_record(e, s, normalize) for (_, e), s in zip(examples, scores, strict=True)]
        correct = sum(record.correct for record in records)
        accuracy, interval = correct / len(records), wilson(correct, len(records))
    return Result(
        name=learner.configuration.name,
        values=learner.configuration.values,
        loss=loss,
        accuracy=accuracy,
        interval=interval,
        n=len(examples),
        steps=learner.taken,
        trainable_parameters=sum(p.numel() for p in learner.parameters.values()),
        at_plateau=learner.at_plateau,
        diverged=learner.diverged,
        losses=learner.losses,
        held_back_losses=learner.held_back_losses,
    )


def best(results: Sequence[Result]) -> Result | None:
    """The first that did not diverge."""
    return next((result for result in results if not result.diverged), None)
