"""Loss and accuracy on validation rows: of the model as it is, or of configurations that stand side by side on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from heft.data.encode import EncodedExample
from heft.evaluation.evaluator import answer_examples, choice_record
from heft.evaluation.finite import NotFinite
from heft.evaluation.references import reference_losses
from heft.models.load import Base
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Reporter
from heft.sweep.results import validation_costs
from heft.sweep.training import SideBySide
from heft.tasks import task_for


@dataclass(frozen=True)
class Measured:
    """A model on the validation rows: see `Outcome`."""

    loss: float | None
    accuracy: float | None
    row_losses: list[float] = field(default_factory=list)


NOT_FINITE = Measured(None, None)


def measured_alone(base: Base, recipe: Recipe, rows: Sequence[EncodedExample]) -> Measured:
    """The model as it is on these rows."""
    model, tokenizer, settings = base.model, base.tokenizer, recipe.evaluation
    try:
        if not rows[0].choices:
            losses = reference_losses(model, rows, settings.batch_size, tokenizer.pad_token_id)
            return _measured([loss * len(row.answer) for loss, row in zip(losses, rows, strict=True)], rows, None)
        raw, task = settings.model_copy(update={"normalize": "none"}), task_for(recipe.task)
        answers = answer_examples(model, tokenizer, task, rows, raw, Reporter(), "validation")
    except NotFinite:
        return NOT_FINITE
    scores = [list(answer.log_likelihoods) for answer in answers]
    losses = [-own[row.example.gold] for own, row in zip(scores, rows, strict=True)]
    return _measured(losses, rows, _accuracy(rows, scores, settings.normalize))


def measured_together(training: SideBySide, normalize: str) -> list[Measured]:
    """Configurations that were trained side by side; `normalize` as in a recipe."""
    costs = validation_costs(training)
    rows = [(number, training.forward.examples[number]) for number in training.validation]
    return [
        NOT_FINITE if learner.diverged else _of_learner(learner.number, costs, rows, normalize)
        for learner in training.learners
    ]


def _of_learner(learner: int, costs: dict, numbered: Sequence[tuple[int, EncodedExample]], normalize: str) -> Measured:
    rows = [row for _, row in numbered]
    losses = [costs[learner, number, row.answer] for number, row in numbered]
    if not all(row.choices for row in rows):
        return _measured(losses, rows, None)
    scores = [[-costs[learner, number, each] for each in row.choices] for number, row in numbered]
    return _measured(losses, rows, _accuracy(rows, scores, normalize))


def _measured(losses: list[float], rows: Sequence[EncodedExample], accuracy: float | None) -> Measured:
    if not all(map(math.isfinite, losses)):
        return NOT_FINITE
    return Measured(sum(losses) / sum(len(row.answer) for row in rows), accuracy, losses)


def _accuracy(rows: Sequence[EncodedExample], scores: Sequence[list[float]], normalize: str) -> float:
    right = [choice_record(row, own, normalize).correct for row, own in zip(rows, scores, strict=True)]
    return sum(right) / len(right)
