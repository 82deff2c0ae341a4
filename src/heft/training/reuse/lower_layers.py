"""Lower-layer reuse: what enters the first edited layer is constant, so it is cached and the layers below are skipped.

It serves stages that train edits at higher layers only, whatever their positions. The hidden states that enter the
first edited layer are computed once a row, without gradients; afterwards a step runs that layer and those above it.
The backward pass needs no help: nothing below requires a gradient.

Shapes: B rows, T tokens, S tokens of one row, d hidden size. A row is cached as (S, d).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from heft.data.batching import select_rows
from heft.data.encode import EncodedExample, left_pad
from heft.reft.sites import block_names, decoder_of
from heft.training.loss import Loss, answer_loss, loss_in_length_buckets
from heft.training.reuse.activation_cache import ROWS_PER_PASS, CachedActivations
from heft.training.reuse.stores import Store

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LowerLayerReuse(CachedActivations):
    """The hidden states of a stage's training rows that enter its first edited layer.

    Attributes:
        model: with the stage's adapters attached.
        examples: the training rows; a batch's `row_ids` are indices into them.
        layer: the first edited layer.
        pad_id: id of the padding token.
        store: keeps hidden states for later epochs.
        rows_per_pass: most rows that are computed together to be cached.
        extras: how many things a block gives beside its hidden states, or None where it gives these alone; known once
            rows were computed.
    """

    model: "PreTrainedModel"
    examples: Sequence[EncodedExample]
    layer: int
    pad_id: int
    store: Store
    rows_per_pass: int = ROWS_PER_PASS
    extras: list[int | None] = field(default_factory=list)

    @property
    def loss(self) -> Loss:
        return partial(loss_in_length_buckets, partial(answer_loss_on_lower_layers, reuse=self))

    def cached_length(self, row: int) -> int:
        """Tokens of a row, prompt and answer."""
        return self.examples[row].length

    def bytes_per_token(self) -> int:
        """Bytes of one token's hidden state."""
        return self.model.config.get_text_config().hidden_size * self.model.dtype.itemsize

    @contextmanager
    def lower_layers_done(self, rows: Sequence[int]) -> Iterator[None]:
        """Inside, a forward pass over these rows, padded on the left, starts at the first edited layer."""
        cached = self.activations_of(rows)
        width = max(map(self.cached_length, rows))
        device = self.model.device
        hidden_BTD = torch.stack(
            [F.pad(cached[row].to(device), (0, 0, width - self.cached_length(row), 0)) for row in rows]
        )
        blocks = [self.model.get_submodule(name) for name in block_names(self.model)]
        enter = blocks[self.layer].register_forward_pre_hook(
            lambda module, args, kwargs: _with_states(args, kwargs, hidden_BTD), prepend=True, with_kwargs=True
        )
        for block in blocks[: self.layer]:
            block.forward = partial(_pass_through, self.extras[0])
        try:
            yield
        finally:
            enter.remove()
            for block in blocks[: self.layer]:
                del block.forward

    @torch.no_grad()
    def compute(self, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        examples = [self.examples[row] for row in rows]
        inputs = left_pad([example.prompt + example.answer for example in examples], self.pad_id)
        inputs = {key: value.to(self.model.device) for key, value in inputs.items()}
        lengths = torch.tensor([len(example.prompt) for example in examples], device=self.model.device)
        blocks = [self.model.get_submodule(name) for name in block_names(self.model)]
        handles = [
            blocks[0].register_forward_hook(self._note_extras),
            blocks[self.layer].register_forward_pre_hook(_stop_with_input, with_kwargs=True),
        ]
        try:
            decoder_of(self.model)(**inputs, prompt_lengths=lengths, use_cache=False)
        except _Reached as reached:
            hidden_BTD = reached.hidden_BTD
        finally:
            for handle in handles:
                handle.remove()
        columns = hidden_BTD.shape[1]
        return {row: hidden_BTD[i, columns - self.cached_length(row) :] for i, row in enumerate(rows)}

    def _note_extras(self, module, args, output) -> None:
        self.extras[:] = [len(output) - 1 if isinstance(output, tuple | list) else None]


def answer_loss_on_lower_layers(
    model: "nn.Module", batch: dict[str, torch.Tensor], reuse: LowerLayerReuse
) -> torch.Tensor:
    """`answer_loss` with the layers below the first edited one taken from `reuse`: the same value and gradients.

    Columns in which all rows are padded are left out, since `reuse` knows none.
    """
    batch = select_rows(batch, slice(None))
    with reuse.lower_layers_done(batch["row_ids"].tolist()):
        return answer_loss(model, batch)


class _Reached(Exception):
    """Ends a forward pass at the first edited layer."""

    def __init__(self, hidden_BTD: torch.Tensor):
        super().__init__()
        self.hidden_BTD = hidden_BTD


def _with_states(args: tuple, kwargs: dict, hidden_BTD: torch.Tensor) -> tuple[tuple, dict]:
    return ((hidden_BTD, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden_BTD})


def _stop_with_input(module, args, kwargs):
    raise _Reached(args[0] if args else kwargs["hidden_states"])


def _pass_through(extras: int | None, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor | tuple:
    return hidden_states if extras is None else (hidden_states, *[None] * extras)
