"""What trials are chosen by: a loss on the validation rows, of the model as it is or of configurations side by side.

Where rows have choices, it is the expected share of wrong answers (heft.evaluation.expected_errors); else −ln p.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedModel

from heft.data.encode import EncodedExample
from heft.evaluation.evaluator import choice_record
from heft.evaluation.expected_errors import expected_error
from heft.evaluation.finite import NotFinite, explain_singular_rotation
from heft.evaluation.references import reference_losses
from heft.evaluation.scoring import in_fitting_batches, score_choices
from heft.evaluation.shared_pass import KeptPrefixes
from heft.models.load import Base
from heft.recipe.recipe import EvaluationSettings, Recipe
from heft.runtime.memory_errors import no_room_for
from heft.runtime.reporter import Reporter
from heft.sweep.learner import Learner
from heft.sweep.training import SideBySide

MOST_CHOICES = 8
"""Where one row has more, only the right ones are scored: p is then the probability among all texts, which comes to
nearly the same once labels are learned."""


@dataclass(frozen=True)
class Measured:
    """A model on the validation rows: see `Outcome`."""

    loss: float | None
    accuracy: float | None
    row_losses: list[float] = field(default_factory=list)


NOT_FINITE = Measured(None, None)


def weight_of(row: EncodedExample) -> int:
    """How often a row's loss counts in the mean: of generated answers, once a token."""
    return 1 if row.choices else len(row.answer)


def are_few(rows: Sequence[EncodedExample]) -> bool:
    """Whether every choice of every row is scored; of all rows of a search, so that its trials are measured alike."""
    return max(len(row.choices) for row in rows) <= MOST_CHOICES


def measured_alone(
    base: Base, recipe: Recipe, rows: Sequence[EncodedExample], few: bool, kept: KeptPrefixes | None = None
) -> Measured:
    """The model as it is on these rows.

    `few` as `are_few` says of all rows, `kept` as for `heft.evaluation.likelihood.choice_log_likelihoods`.
    """
    model, pad_id, settings = base.model, base.tokenizer.pad_token_id, recipe.evaluation
    try:
        if not rows[0].choices:
            losses = reference_losses(model, rows, settings.batch_size, pad_id)
            return _of_texts([loss * len(row.answer) for loss, row in zip(losses, rows, strict=True)], rows)
        asked = [replace(row, choices=own) for row, own in zip(rows, _scored(rows, few), strict=True)]
        return _of_choices(rows, _scores(model, pad_id, asked, settings, kept), few, settings.normalize)
    except NotFinite:
        return NOT_FINITE


def measured_together(
    training: SideBySide, rows: Sequence[EncodedExample], few: bool, normalize: str
) -> list[Measured]:
    """Configurations that were trained side by side, each as if it were alone; `normalize` as in a recipe.

    Answers are scored at the end of their training; here the other choices are.
    """
    sound = [learner for learner in training.learners if not learner.diverged]
    scored = list(zip(training.validation, _scored(rows, few), strict=True))
    costs = {
        (learner.number, number, row.answer): cost
        for learner in sound
        for (number, _), row, cost in zip(scored, rows, training.row_losses[learner.number], strict=True)
    }
    wanted = [
        (each.number, number, choice) for number, own in scored for choice in dict.fromkeys(own) for each in sound
    ]
    others = [key for key in wanted if key not in costs]
    if others:
        found = training.retrying.measure([training.forward.item(*key) for key in others])
        costs |= dict(zip(others, found, strict=True))

    def measured(learner: Learner) -> Measured:
        if learner.diverged:
            return NOT_FINITE
        if not rows[0].choices:
            return _of_texts(training.row_losses[learner.number], rows)
        scores = [[-costs[learner.number, number, choice] for choice in own] for number, own in scored]
        return _of_choices(rows, scores, few, normalize)

    return list(map(measured, training.learners))


def _scored(rows: Sequence[EncodedExample], few: bool) -> list[tuple[tuple[int, ...], ...]]:
    """The choices of each row that are scored: all, or only the answer."""
    return [row.choices if few else (row.answer,) for row in rows]


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


def _of_texts(losses: list[float], rows: Sequence[EncodedExample]) -> Measured:
    """From −ln p of each row's answer."""
    if not all(map(math.isfinite, losses)):
        return NOT_FINITE
    return Measured(sum(losses) / sum(map(weight_of, rows)), None, losses)


def _of_choices(
    rows: Sequence[EncodedExample], scores: Sequence[Sequence[float]], few: bool, normalize: str
) -> Measured:
    """From ln p of each row's choices, or of its answer alone."""
    if not all(math.isfinite(score) for own in scores for score in own):
        return NOT_FINITE
    pairs = list(zip(rows, scores, strict=True))
    if few:
        losses = [expected_error(row, own, normalize) for row, own in pairs]
        accuracy = sum(choice_record(row, own, normalize).correct for row, own in pairs) / len(pairs)
    else:
        losses, accuracy = [-math.expm1(own) for (own,) in scores], None
    return Measured(sum(losses) / len(losses), accuracy, losses)
