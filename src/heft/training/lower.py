"""Lower-layer reuse: what enters the first edited layer is constant, so it is kept and the layers below are skipped.

It serves stages that train edits at higher layers only, whatever their positions. The hidden states that enter the
first edited layer are computed once a row, without gradients; afterwards a step runs that layer and those above it.
The backward pass needs no help: nothing below requires a gradient.

Shapes: B rows, T tokens, S tokens of one row, d hidden size. A row is kept as (1, 1, S, d).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from heft.batching import batches_of_like_length, pass_tokens
from heft.data import EncodedExample, left_pad
from heft.reft.layer import ReftLayer
from heft.reft.sites import block_names
from heft.training.prefix import has_dropout, trains_reft_alone
from heft.training.stores import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def first_edited_layer(model: "PreTrainedModel") -> int | None:
    """The lowest layer with a trained edit, if reuse applies and there are layers below it; None otherwise."""
    if not trains_reft_alone(model) or has_dropout(model):
        return None
    blocks = block_names(model)
    edited = [
        layer
        for layer, name in enumerate(blocks)
        for module in model.get_submodule(name).modules()
        if isinstance(module, ReftLayer) and any(p.requires_grad for p in module.parameters())
    ]
    return min(edited) or None


@dataclass(frozen=True)
class LowerLayerReuse:
    """The hidden states of a stage's training rows that enter its first edited layer.

    Attributes:
        model: with the stage's adapters attached.
        examples: the training rows; a batch's `row_ids` are indices into them.
        layer: the first edited layer.
        pad_id: id of the padding token.
        store: keeps hidden states for later epochs.
    """

    model: "PreTrainedModel"
    examples: Sequence[EncodedExample]
    layer: int
    pad_id: int
    store: Store

    def row_length(self, row: int) -> int:
        """Tokens of a row, prompt and answer."""
        return len(self.examples[row].prompt) + len(self.examples[row].answer)

    @contextmanager
    def lower_layers_done(self, rows: Sequence[int]) -> Iterator[None]:
        """Inside, a forward pass over these rows, padded on the left, starts at the first edited layer."""
        kept = {row: self.store.get(row) for row in rows}
        kept |= self._compute([row for row, tensor in kept.items() if tensor is None])
        width = max(map(self.row_length, rows))
        device = self.model.device
        hidden_BTD = torch.stack(
            [F.pad(kept[row][0, 0].to(device), (0, 0, width - self.row_length(row), 0)) for row in rows]
        )
        blocks = [self.model.get_submodule(name) for name in block_names(self.model)]
        enter = blocks[self.layer].register_forward_pre_hook(lambda module, args: (hidden_BTD, *args[1:]), prepend=True)
        for block in blocks[: self.layer]:
            block.forward = _pass_through
        try:
            yield
        finally:
            enter.remove()
            for block in blocks[: self.layer]:
                del block.forward

    def _compute(self, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        computed = {}
        lengths = [self.row_length(row) for row in rows]
        for part in batches_of_like_length(lengths, len(rows), pass_tokens(self.model.device, trains=False)):
            computed |= self._compute_part([rows[i] for i in part])
        return computed

    @torch.no_grad()
    def _compute_part(self, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        examples = [self.examples[row] for row in rows]
        inputs = left_pad([example.prompt + example.answer for example in examples], self.pad_id)
        inputs = {key: value.to(self.model.device) for key, value in inputs.items()}
        lengths = torch.tensor([len(example.prompt) for example in examples], device=self.model.device)
        block = self.model.get_submodule(block_names(self.model)[self.layer])
        handle = block.register_forward_pre_hook(_stop_with_input)
        try:
            self.model.get_decoder()(**inputs, prompt_lengths=lengths, use_cache=False)
        except _Reached as reached:
            hidden_BTD = reached.hidden_BTD
        finally:
            handle.remove()
        computed = {}
        for i, row in enumerate(rows):
            computed[row] = hidden_BTD[None, i : i + 1, hidden_BTD.shape[1] - self.row_length(row) :]
            self.store.put(row, computed[row])
        return computed


class _Reached(Exception):
    """Ends a forward pass at the first edited layer."""

    def __init__(self, hidden_BTD: torch.Tensor):
        super().__init__()
        self.hidden_BTD = hidden_BTD


def _stop_with_input(module, args):
    raise _Reached(args[0])


def _pass_through(hidden_BTD: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    return hidden_BTD
