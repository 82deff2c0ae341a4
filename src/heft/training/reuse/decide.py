"""Which loss a stage is trained with: the plain one, or an equal one that computes less."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from heft.data.encode import EncodedExample
from heft.data.padding import padding_matters
from heft.errors import HeftError
from heft.models.sharding import is_sharded
from heft.recipe.recipe import Stage
from heft.runtime.reporter import Reporter
from heft.training.attention import reads_in_place
from heft.training.checked_loss import draws_random_numbers, longest_of, why_not_fast
from heft.training.fused_lora import fused_lora
from heft.training.loss import Loss, answer_loss, plain_loss
from heft.training.reuse.activation_cache import ROWS_PER_PASS
from heft.training.reuse.facts import ReuseFacts
from heft.training.reuse.lower_layers import LowerLayerReuse
from heft.training.reuse.plan import NOTHING, PREFIXES, ReusePlan, decide_reuse
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.shared import StagePrefixes
from heft.training.reuse.stores import Store, open_store

Reuse = PrefixReuse | LowerLayerReuse


def plain_loss_for(model: PreTrainedModel, rows: Sequence[EncodedExample], pad_id: int) -> Loss:
    """The loss that computes every token in every layer.

    Of a sharded model in one pass, since all processes have to run as many, each on rows of other lengths.

    Raises:
        HeftError: the model is sharded, and rows would run beside padding that changes what it computes.
    """
    equal_lengths = padding_matters(model, pad_id, longest_of(rows))
    if not is_sharded(model):
        return plain_loss(equal_lengths)
    if equal_lengths:
        raise HeftError(
            "this model computes other numbers for a row that stands beside padding, so its rows run in passes of equal"
            " lengths, of which processes would have unlike many; set distributed: ddp"
        )
    return answer_loss


def may_be_fused(model: PreTrainedModel, rows: Sequence[EncodedExample], pad_id: int, reporter: Reporter) -> bool:
    """Whether LoRA layers may compute as one function (heft.training.fused_lora); where not, a note says why."""
    plain = plain_loss_for(model, rows, pad_id)

    def fused(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with fused_lora(model):
            return plain(model, batch)

    with fused_lora(model) as layers:
        if not layers:
            return False
    why_not = why_not_fast(model, fused, plain, rows, pad_id, "fused")
    if why_not is not None:
        reporter.note(f"fused is off, PEFT's own layers compute: {why_not}")
    return why_not is None


def loss_for(
    model: PreTrainedModel,
    stage: Stage,
    rows: Sequence[EncodedExample],
    pad_id: int,
    uses: float,
    folder: Path,
    reporter: Reporter,
    attention: str = "auto",
    prefixes: StagePrefixes | None = None,
) -> tuple[Loss, bool]:
    """The cheapest loss that the stage allows and that equals the plain one on this model; a note says which.

    Args:
        model: with the stage's adapters attached.
        rows: training rows and validation rows; a batch's `row_ids` are indices into them.
        uses: how often each row will be trained on.
        folder: for a file of cached activations.
        attention: model.attention of the recipe.
        prefixes: that the stage shares with others of its run; None for none.

    Returns:
        the loss, and whether it computes less than every token in every layer.
    """
    plain = plain_loss_for(model, rows, pad_id)
    shared = None if prefixes is None else prefixes.shared
    plan = decide_reuse(stage, ReuseFacts.of(model), shared, is_sharded(model))
    if plan.kind == NOTHING:
        return plain, False
    if plan.stages:
        reuse = prefixes.base.reuse(model, plan.start, pad_id, rows)
    else:
        reuse = reuse_of(plan, model, rows, pad_id, Store(), stage.micro_batch_size or stage.batch_size)
    if draws_random_numbers(model, rows, pad_id):
        why_not = "the base model draws random numbers in training, and what is computed once would be one draw for all"
    else:

        def why_not_this(form: Reuse) -> str | None:
            return why_not_fast(model, form.loss, plain, rows, pad_id, form.kind)

        reuse, why_not = first_equal(forms_of(reuse, attention), why_not_this, reporter)
    if why_not is not None:
        reporter.note(f"reuse is off, the plain path is taken: {why_not}")
        return plain, False
    stored = with_store(reuse, plan, stage.cache, uses, folder, reporter, prefixes)
    return (plain, False) if stored is None else (stored.loss, True)


def reuse_of(
    plan: ReusePlan,
    model: PreTrainedModel,
    rows: Sequence[EncodedExample],
    pad_id: int,
    store: Store,
    rows_per_pass: int = ROWS_PER_PASS,
) -> Reuse:
    """What carries a plan out."""
    kind = PrefixReuse if plan.kind == PREFIXES else LowerLayerReuse
    equal_lengths = padding_matters(model, pad_id, longest_of(rows))
    return kind(model, rows, plan.start, pad_id, store, rows_per_pass, equal_lengths)


def forms_of(reuse: Reuse, attention: str) -> list[Reuse]:
    """The ways to compute with it that the setting model.attention allows, the fastest first."""
    if isinstance(reuse, PrefixReuse) and reads_in_place(reuse.model, attention):
        return [replace(reuse, in_place=True), reuse]
    return [reuse]


def first_equal(
    forms: Sequence[Reuse], why_not: Callable[[Reuse], str | None], reporter: Reporter
) -> tuple[Reuse, str | None]:
    """The first of the forms that equals the plain path; or the last one, and why it does not, in words.

    A note says why prefixes are copied where they could have been read in place.
    """
    reasons: list[str] = []
    for form in forms:
        reason = why_not(form)
        if reason is None:
            if reasons:
                reporter.note(f"prefixes are copied at every step, attention cannot read them in place: {reasons[0]}")
            return form, None
        reasons.append(reason)
    return forms[-1], reasons[-1]


def with_store(
    reuse: Reuse,
    plan: ReusePlan,
    cache: str,
    uses: float,
    folder: Path,
    reporter: Reporter,
    prefixes: StagePrefixes | None = None,
) -> Reuse | None:
    """Reuse with the store that the setting `cache` means now; None where it saves nothing without one."""
    plan = plan.stored(reuse.examples, reuse.bytes_per_token(), cache, uses, folder)
    if plan.kind == NOTHING:
        return None
    reporter.note(plan.in_words())
    if plan.stages:
        return replace(reuse, store=prefixes.base.store(plan.store))
    return replace(reuse, store=open_store(plan.store, plan.lengths(reuse.examples), folder))
