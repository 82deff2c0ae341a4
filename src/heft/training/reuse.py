"""Which loss a stage is trained with: the plain one, or an equal one that computes less."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from heft.data import EncodedExample
from heft.recipe import ReftStage, Stage
from heft.reft.layer import ReftLayer
from heft.reporter import Reporter
from heft.training.loss import answer_loss, answer_loss_on_lower_layers, answer_loss_on_prefixes
from heft.training.lower import LowerLayerReuse, first_edited_layer
from heft.training.parts import loss_by_parts
from heft.training.prefix import PrefixReuse, measure_bytes_per_token, reach
from heft.training.stores import NoStore, Store, choose_store

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

Loss = Callable[["nn.Module", dict[str, torch.Tensor]], torch.Tensor]
"""Sum over a batch's answer tokens of −ln p; see heft.training.loss."""


def plain_loss(model: "PreTrainedModel") -> Loss:
    """The loss that computes every token in every layer."""
    edits_prompt = any(isinstance(module, ReftLayer) for module in model.modules())
    return partial(loss_by_parts, partial(answer_loss, edits_prompt=edits_prompt))


def loss_for(
    model: "PreTrainedModel",
    stage: Stage,
    rows: Sequence[EncodedExample],
    pad_id: int,
    uses: float,
    folder: Path,
    reporter: Reporter,
) -> Loss:
    """The cheapest loss that the stage allows; what it keeps, and where, is told to the reporter.

    Args:
        model: with the stage's adapters attached.
        stage: its settings.
        rows: training rows and rows held back; a batch's `row_ids` are indices into them.
        pad_id: id of the padding token.
        uses: how often each row will be trained on.
        folder: for a file of what is kept.
        reporter: is told.
    """
    if not isinstance(stage, ReftStage) or not stage.reuse or stage.gradient_checkpointing:
        return plain_loss(model)
    rows_a_pass = stage.micro_batch_size or stage.batch_size
    edited = reach(model)
    if edited is not None:
        return partial(
            answer_loss_on_prefixes,
            reuse=replace(
                open_prefixes(model, rows, edited, pad_id, stage.cache, uses, folder, reporter), rows_a_pass=rows_a_pass
            ),
        )
    layer = first_edited_layer(model)
    if layer is not None:
        lengths = [len(row.prompt) + len(row.answer) for row in rows]
        bytes_per_token = model.config.get_text_config().hidden_size * model.dtype.itemsize
        store = choose_store(stage.cache, lengths, bytes_per_token, uses, folder)
        if store.kind != "off":  # without a store every step would run the lower layers, as the plain loss does
            _tell(reporter, f"layers 0 to {layer - 1} skipped", lengths, bytes_per_token, store)
            reuse = LowerLayerReuse(model, rows, layer, pad_id, store, rows_a_pass)
            return partial(loss_by_parts, partial(answer_loss_on_lower_layers, reuse=reuse))
    return plain_loss(model)


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
    lengths = [len(row.prompt) - edited for row in rows]
    bytes_per_token = measure_bytes_per_token(PrefixReuse(model, rows, edited, pad_id, NoStore()))
    store = choose_store(cache, lengths, bytes_per_token, uses, folder)
    _tell(reporter, "prefixes reused", lengths, bytes_per_token, store)
    return PrefixReuse(model, rows, edited, pad_id, store)


def _tell(reporter: Reporter, what: str, lengths: Sequence[int], bytes_per_token: int, store: Store) -> None:
    size = f"{sum(lengths) * bytes_per_token / 1e9:.2f} GB"
    kept = f"{size} kept in {store.kind}" if store.kind != "off" else f"computed at every step ({size} to keep)"
    reporter.note(f"{what}: {sum(lengths):,} tokens, {kept}")
