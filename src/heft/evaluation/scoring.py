"""Choices scored by the fast path where it gives the plain path's result, in batches that memory holds."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from transformers import PreTrainedModel

from heft.data.padding import padding_matters
from heft.errors import HeftError
from heft.evaluation.finite import require_finite
from heft.evaluation.likelihood import choice_log_likelihoods, why_not_shared
from heft.evaluation.shared_pass import KeptPrefixes, OnTokens, ignore_tokens
from heft.evaluation.shared_prefix import Question
from heft.models.frozen_linear import frozen_layers_in_onednn
from heft.models.sharding import is_sharded
from heft.recipe.recipe import EvaluationSettings
from heft.runtime.memory_errors import in_smaller_batches
from heft.runtime.reporter import Reporter

_Result = TypeVar("_Result")


def in_fitting_batches(
    run: Callable[[int], _Result],
    model: PreTrainedModel,
    settings: EvaluationSettings,
    reporter: Reporter,
    what: str,
    no_room: HeftError,
) -> _Result:
    """`run` with the settings' batch size, and from the start with half of it whenever memory runs out.

    Not of a sharded model: one process that halved its batches would run other passes than those that it needs.

    `what` names the work to the reporter; `no_room` is raised where a batch of one does not fit.
    """

    def on_halved(batch_size: int) -> None:
        reporter.warn(f"{what}: out of memory: batch size reduced to {batch_size}, starting again")

    with frozen_layers_in_onednn(model, settings.fused):
        if is_sharded(model):
            return run(settings.batch_size)
        return in_smaller_batches(run, settings.batch_size, on_halved, no_room)


def score_choices(
    model: PreTrainedModel,
    pad_id: int,
    questions: Sequence[Question],
    settings: EvaluationSettings,
    batch_size: int,
    reporter: Reporter,
    what: str,
    on_tokens: OnTokens = ignore_tokens,
    kept: KeptPrefixes | None = None,
) -> list[list[float]]:
    """ln p of every choice of every question, by `heft.evaluation.likelihood`.

    Prefixes are shared where the settings ask for it and a trial finds the plain path's result; where it does not, the
    reporter hears why. Rows of unlike length stand in one batch where the model makes nothing of padding. `kept` as for
    `choice_log_likelihoods`.

    Raises:
        NotFinite: a choice has no finite log-likelihood.
    """
    longest = max(len(each.prompt) + max(map(len, each.choices)) for each in questions)
    equal_lengths = padding_matters(model, pad_id, longest)
    shares = settings.share_prefix and not equal_lengths
    why_not = why_not_shared(model, questions, pad_id, kept and kept.nothing_kept()) if shares else None
    if why_not is not None and kept is not None:
        kept, why_not = None, why_not_shared(model, questions, pad_id)
    if why_not is not None:
        reporter.note(f"{what}: no prefix is shared, the plain path is taken: {why_not}")
    scores = choice_log_likelihoods(
        model,
        questions,
        batch_size=batch_size,
        pad_id=pad_id,
        share_prefix=shares and why_not is None,
        equal_lengths=equal_lengths,
        on_batch=lambda done: reporter.step(what, done, len(questions)),
        on_tokens=on_tokens,
        kept=kept,
    )
    require_finite(questions, scores)
    return scores
