"""Which loss a stage is trained with: the plain one, or an equal one that computes less."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from heft.data.encode import EncodedExample
from heft.data.padding import padding_matters
from heft.recipe.recipe import ReftStage, Stage
from heft.runtime.reporter import Reporter
from heft.training.checked_loss import draws_random_numbers, longest_of, why_not_fast
from heft.training.fused_lora import fused_lora
from heft.training.loss import Loss, loss_in_length_buckets, plain_loss
from heft.training.reuse.lower_layers import LowerLayerReuse, answer_loss_on_lower_layers, first_edited_layer
from heft.training.reuse.prefix import PrefixReuse, answer_loss_on_prefixes, measure_bytes_per_token, reach
from heft.training.reuse.stores import NoStore, Store, choose_store

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


def may_be_fused(model: "PreTrainedModel", rows: Sequence[EncodedExample], pad_id: int, reporter: Reporter) -> bool:
    """Whether LoRA layers may compute as one function (heft.training.fused_lora); where not, the reporter is told."""
    plain = plain_loss(model, padding_matters(model, pad_id, longest_of(rows)))

    def fused(model: "nn.Module", batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
        with fused_lora(model):
            return plain(model, batch)

    with fused_lora(model) as layers:
        if not layers:
            return False
    why_not = why_not_fast(model, fused, plain, rows, pad_id)
    if why_not is not None:
        reporter.note(f"fused is off, PEFT's own layers compute: {why_not}")
    return why_not is None


@dataclass(frozen=True)
class StageLoss:
    """What a stage is trained on.

    Attributes:
        compute: the loss.
        reuses: whether it computes less than every token in every layer.
    """

    compute: Loss
    reuses: bool


def loss_for(
    model: "PreTrainedModel",
    stage: Stage,
    rows: Sequence[EncodedExample],
    pad_id: int,
    uses: float,
    folder: Path,
    reporter: Reporter,
) -> StageLoss:
    """The cheapest loss that the stage allows and that is the plain one on this model; the reporter is told of it.

    Args:
        model: with the stage's adapters attached.
        stage: its settings.
        rows: training rows and rows held back; a batch's `row_ids` are indices into them.
        pad_id: id of the padding token.
        uses: how often each row will be trained on.
        folder: for a file of what is kept.
        reporter: is told.
    """
    plain = plain_loss(model, padding_matters(model, pad_id, longest_of(rows)))
    if not isinstance(stage, ReftStage) or not stage.reuse or stage.gradient_checkpointing:
        return StageLoss(plain, False)
    reuse = _reuse(model, stage, rows, pad_id)
    if reuse is None:
        return StageLoss(plain, False)
    if draws_random_numbers(model, rows, pad_id):
        why_not = "the base model draws random numbers in training, and what is computed once would be one draw for all"
    else:
        why_not = why_not_fast(model, _loss_with(reuse), plain, rows, pad_id)
    if why_not is not None:
        reporter.note(f"reuse is off, the plain path is taken: {why_not}")
        return StageLoss(plain, False)
    what, lengths, bytes_per_token = _kept_of(reuse)
    store = choose_store(stage.cache, lengths, bytes_per_token, uses, folder)
    if isinstance(reuse, LowerLayerReuse) and store.kind == "off":
        return StageLoss(plain, False)  # every step would run the lower layers, as the plain loss does
    _tell(reporter, what, lengths, bytes_per_token, store)
    return StageLoss(_loss_with(replace(reuse, store=store)), True)


def _reuse(
    model: "PreTrainedModel", stage: ReftStage, rows: Sequence[EncodedExample], pad_id: int
) -> PrefixReuse | LowerLayerReuse | None:
    """What the stage's edits leave as it is, kept nowhere yet."""
    rows_a_pass = stage.micro_batch_size or stage.batch_size
    edited = reach(model)
    if edited is not None:
        return PrefixReuse(model, rows, edited, pad_id, NoStore(), rows_a_pass)
    layer = first_edited_layer(model)
    return None if layer is None else LowerLayerReuse(model, rows, layer, pad_id, NoStore(), rows_a_pass)


def _loss_with(reuse: PrefixReuse | LowerLayerReuse) -> Loss:
    if isinstance(reuse, PrefixReuse):
        return partial(answer_loss_on_prefixes, reuse=reuse)
    return partial(loss_in_length_buckets, partial(answer_loss_on_lower_layers, reuse=reuse))


def _kept_of(reuse: PrefixReuse | LowerLayerReuse) -> tuple[str, list[int], int]:
    """What is kept, in words, of how many tokens of each row, and how many bytes a token."""
    lengths = [reuse.kept_length(row) for row in range(len(reuse.examples))]
    if isinstance(reuse, PrefixReuse):
        return "prefixes reused", lengths, measure_bytes_per_token(reuse)
    model = reuse.model
    width = model.config.get_text_config().hidden_size * model.dtype.itemsize
    return f"layers 0 to {reuse.layer - 1} skipped", lengths, width


def open_prefixes(
    model: "PreTrainedModel",
    rows: Sequence[EncodedExample],
    edited: int,
    pad_id: int,
    cache: str,
    uses: float,
    folder: Path,
    reporter: Reporter,
) -> PrefixReuse:
    """Prefixes of `rows` up to `edited` tokens before a prompt's end; other arguments as for `loss_for`."""
    reuse = PrefixReuse(model, rows, edited, pad_id, NoStore())
    what, lengths, bytes_per_token = _kept_of(reuse)
    store = choose_store(cache, lengths, bytes_per_token, uses, folder)
    _tell(reporter, what, lengths, bytes_per_token, store)
    return replace(reuse, store=store)


def _tell(reporter: Reporter, what: str, lengths: Sequence[int], bytes_per_token: int, store: Store) -> None:
    size = f"{sum(lengths) * bytes_per_token / 1e9:.2f} GB"
    kept = f"{size} kept in {store.kind}" if store.kind != "off" else f"computed at every step ({size} to keep)"
    reporter.note(f"{what}: {sum(lengths):,} tokens, {kept}")
