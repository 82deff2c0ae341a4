"""What a sweep found: every configuration on the validation rows, best first."""

import math
from dataclasses import dataclass
from typing import Any

from heft.evaluation.evaluator import choice_record
from heft.evaluation.expected_errors import expected_error
from heft.results.proportions import wilson
from heft.sweep.learner import Learner
from heft.sweep.training import SideBySide


@dataclass(frozen=True)
class Result:
    """One configuration.

    Attributes:
        name: c00, c01, …
        values: its settings from the grid.
        expected_errors: expected share of wrong answers on the validation rows, 0 to 1; None where answers are
            generated or it diverged.
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
    expected_errors: float | None
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

    @property
    def ranked_by(self) -> float | None:
        """What the lowest of is the best: the expected share of wrong answers, or the loss where answers are generated;
        None where it diverged."""
        return self.loss if self.expected_errors is None else self.expected_errors


def rank(training: SideBySide, normalize: str) -> list[Result]:
    """Measure all configurations on the validation rows; best first (`Result.ranked_by`), equal ones in grid order.

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
    return sorted(results, key=lambda r: math.inf if r.ranked_by is None else r.ranked_by)


def _measure(learner: Learner, training: SideBySide, costs: dict, normalize: str) -> Result:
    examples = [(row, training.forward.examples[row]) for row in training.validation]
    expected_errors = loss = accuracy = interval = None
    if not learner.diverged:
        total = sum(costs[learner.number, row, example.answer] for row, example in examples)
        loss = total / sum(len(example.answer) for _, example in examples)
    if loss is not None and all(example.choices for _, example in examples):
        scored = [
            (example, [-costs[learner.number, row, choice] for choice in example.choices]) for row, example in examples
        ]
        expected_errors = sum(expected_error(*each, normalize) for each in scored) / len(scored)
        correct = sum(choice_record(*each, normalize).correct for each in scored)
        accuracy, interval = correct / len(scored), wilson(correct, len(scored))
    return Result(
        name=learner.configuration.name,
        values=learner.configuration.values,
        expected_errors=expected_errors,
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
