"""Lower-layer reuse: what enters the first edited layer is constant, so it is cached and the layers below are skipped.

It serves stages that train edits at higher layers only, whatever their positions. The hidden states that enter the
first edited layer are computed once per row, without gradients; afterwards a step runs that layer and those above it.
The backward pass needs no help: nothing below requires a gradient.

Shapes: B rows, T tokens, S tokens of one row, d hidden size. A row is cached as (S, d).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from heft.data.batching import select_rows
from heft.reft.sites import block_names, decoder_of
from heft.training.loss import Loss, answer_loss, loss_in_length_buckets
from heft.training.reuse.activation_cache import CachedActivations


@dataclass(frozen=True)
class LowerLayerReuse(CachedActivations):
    """The hidden states of a stage's training rows that enter its first edited layer, `start`.

    Attributes:
        extras: how many things a block gives beside its hidden states, or None where it gives these alone; known once
            rows were computed.
    """

    extras: list[int | None] = field(default_factory=list)

    @property
    def loss(self) -> Loss:
        on_lower_layers = partial(answer_loss_on_lower_layers, reuse=self)
        return partial(loss_in_length_buckets, on_lower_layers, equal_lengths=self.equal_lengths)

    def tokens(self, row: int) -> tuple[int, ...]:
        return self.examples[row].prompt + self.examples[row].answer

    def bytes_per_token(self) -> int:
        """Bytes of one token's hidden state."""
        return self.model.config.get_text_config().hidden_size * self.model.dtype.itemsize

    @contextmanager
    def lower_layers_done(self, rows: Sequence[int]) -> Iterator[None]:
        """Inside, a forward pass over these rows, padded on the left, starts at the first edited layer."""
        cached, width = self.activations_of(rows), max(map(self.cached_length, rows))
        hidden_BTD = torch.stack([self.padded(cached[row], width) for row in rows])
        blocks = self._blocks()
        enter = blocks[self.start].register_forward_pre_hook(
            lambda module, args, kwargs: _with_states(args, kwargs, hidden_BTD), prepend=True, with_kwargs=True
        )
        for block in blocks[: self.start]:
            block.forward = partial(_pass_through, self.extras[0])
        try:
            yield
        finally:
            enter.remove()
            for block in blocks[: self.start]:
                del block.forward

    def run(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        blocks = self._blocks()
        handles = [
            blocks[0].register_forward_hook(self._note_extras),
            blocks[self.start].register_forward_pre_hook(_stop_with_input, with_kwargs=True),
        ]
        try:
            decoder_of(self.model)(**inputs, use_cache=False)
        except _Reached as reached:
            return reached.hidden_BTD
        finally:
            for handle in handles:
                handle.remove()
        raise AssertionError(f"block {self.start} was not reached")

    def _blocks(self) -> list[nn.Module]:
        return [self.model.get_submodule(name) for name in block_names(self.model)]

    def _note_extras(self, module, args, output) -> None:
        self.extras[:] = [len(output) - 1 if isinstance(output, tuple | list) else None]


def answer_loss_on_lower_layers(
    model: nn.Module, batch: dict[str, torch.Tensor], reuse: LowerLayerReuse
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
