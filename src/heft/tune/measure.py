"""Loss and accuracy on validation rows: of the model as it is, or of configurations that stand side by side on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedModel

from heft.data.encode import EncodedExample
from heft.evaluation.evaluator import choice_record
from heft.evaluation.finite import NotFinite, explain_singular_rotation
from heft.evaluation.references import reference_losses
from heft.evaluation.scoring import in_fitting_batches, score_choices
from heft.evaluation.shared_pass import KeptPrefixes
from heft.models.load import Base
from heft.recipe.recipe import EvaluationSettings, Recipe
from heft.runtime.memory_errors import no_room_for
from heft.runtime.reporter import Reporter
from heft.sweep.training import SideBySide


@dataclass(frozen=True)
class Measured:
    """A model on the validation rows: see `Outcome`."""

    loss: float | None
    accuracy: float | None
    row_losses: list[float] = field(default_factory=list)


NOT_FINITE = Measured(None, None)


def measured_alone(
    base: Base, recipe: Recipe, rows: Sequence[EncodedExample], kept: KeptPrefixes | None = None
) -> Measured:
    """The model as it is on these rows, with its accuracy where all choices are single tokens: others cost passes that
    the loss does not need. `kept` as for `heft.evaluation.likelihood.choice_log_likelihoods`."""
    model, tokenizer, settings = base.model, base.tokenizer, recipe.evaluation
    try:
        if not rows[0].choices:
            losses = reference_losses(model, rows, settings.batch_size, tokenizer.pad_token_id)
            return _measured([loss * len(row.answer) for loss, row in zip(losses, rows, strict=True)], rows, None)
        if any(len(choice) > 1 for row in rows for choice in row.choices):
            answers = [replace(row, choices=(row.answer,)) for row in rows]
            scores = _scores(model, tokenizer.pad_token_id, answers, settings, kept)
            return _measured([-own[0] for own in scores], rows, None)
        scores = _scores(model, tokenizer.pad_token_id, rows, settings, kept)
    except NotFinite:
        return NOT_FINITE
    losses = [-own[row.example.gold] for own, row in zip(scores, rows, strict=True)]
    return _measured(losses, rows, _accuracy(rows, scores, settings.normalize))


def _scores(
    model: PreTrainedModel,
    pad_id: int,
    rows: Sequence[EncodedExample],
    settings: EvaluationSettings,
    kept: KeptPrefixes | None,
) -> list[list[float]]:
    """ln p of every choice of every row."""
    about = (settings, Reporter(), "validation")

    def run(batch_size: int) -> list[list[float]]:
        with explain_singular_rotation(model):
            return score_choices(model, pad_id, rows, settings, batch_size, *about[1:], kept=kept)

    return in_fitting_batches(run, model, *about, no_room_for("a batch of one"))


def measured_together(training: SideBySide, rows: Sequence[EncodedExample]) -> list[Measured]:
    """Configurations that were trained side by side, as they were validated at the end of their training.

    Without accuracy: the other choices of every row would cost more than the short trainings themselves.
    """
    return [
        NOT_FINITE if learner.diverged else _measured(training.row_losses[learner.number], rows, None)
        for learner in training.learners
    ]


def _measured(losses: list[float], rows: Sequence[EncodedExample], accuracy: float | None) -> Measured:
    if not all(map(math.isfinite, losses)):
        return NOT_FINITE
    return Measured(sum(losses) / sum(len(row.answer) for row in rows), accuracy, losses)


def _accuracy(rows: Sequence[EncodedExample], scores: Sequence[list[float]], normalize: str) -> float:
    right = [choice_record(row, own, normalize).correct for row, own in zip(rows, scores, strict=True)]
    return sum(right) / len(right)
