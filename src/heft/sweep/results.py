"""What a sweep found: every configuration on the validation rows, best first."""

import math
from dataclasses import dataclass
from typing import Any

from heft.evaluation.evaluator import choice_record
from heft.results.proportions import wilson
from heft.sweep.learner import Learner
from heft.sweep.training import SideBySide


@dataclass(frozen=True)
class Result:
    """One configuration.

    Attributes:
        name: c00, c01, …
        values: its settings from the grid.
        loss: mean of −ln p over the answer tokens of the validation rows; None where it diverged.
        accuracy: share of the validation rows answered correctly; None where answers are generated or it diverged.
        interval: Wilson's 95 % interval of the accuracy.
        n: validation rows.
        steps: optimizer steps taken.
        trainable_parameters: numbers that were trained.
        stopped_early: whether its validation loss ended it before its steps did.
        diverged: whether a loss, a gradient or a weight was NaN or infinite.
        losses: training loss of each step.
        validation_losses: (step, loss) of each validation evaluation.
    """

    name: str
    values: dict[str, Any]
    loss: float | None
    accuracy: float | None
    interval: tuple[float, float] | None
    n: int
    steps: int
    trainable_parameters: int
    stopped_early: bool
    diverged: bool
    losses: list[float]
    validation_losses: list[tuple[int, float]]


def rank(training: SideBySide, normalize: str) -> list[Result]:
    """Measure all configurations on the validation rows; lowest loss first, then highest accuracy, then grid order.

    Raises:
        HeftError: validation rows have no finite loss, whatever the configuration.
    """
    sound = [learner for learner in training.learners if not learner.diverged]
    forward = training.forward
    wanted = [
        (learner.number, row, continuation)
        for row in training.validation
        for continuation in dict.fromkeys((forward.examples[row].answer, *forward.examples[row].choices))
        for learner in sound
    ]
    values = training.retrying.measure([forward.item(*key) for key in wanted])
    costs = dict(zip(wanted, values, strict=True))
    results = [_measure(learner, training, costs, normalize) for learner in training.learners]
    return sorted(results, key=lambda r: (math.inf if r.loss is None else r.loss, -(r.accuracy or 0.0)))


def _measure(learner: Learner, training: SideBySide, costs: dict, normalize: str) -> Result:
    examples = [(row, training.forward.examples[row]) for row in training.validation]
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
        stopped_early=learner.stopped_early,
        diverged=learner.diverged,
        losses=learner.losses,
        validation_losses=learner.validation_losses,
    )
