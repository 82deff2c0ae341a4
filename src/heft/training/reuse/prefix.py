"""Prefix reuse: tokens before the first edited one are computed without gradients, once for all epochs where they fit.

In a decoder no token sees a later one. If a stage edits the last N prompt tokens only, everything before them has the
frozen model's activations in every layer, whatever the edits are. So those tokens run once, without gradients, and
their keys and values stand for them afterwards; only the last N tokens and the answer run with gradients. Logits and
gradients are those of the plain path.

Shapes: B rows, T tokens; S prefix tokens, W numbers of a token in the cache (heft.models.prefix_states).
"""

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import nn
from transformers import Cache, DynamicCache

from heft.adapters.attach import base_alone
from heft.data.batching import select_rows
from heft.models.forward import takes_prompt_lengths
from heft.models.prefix_attention import reading_cache, reads_prefix
from heft.models.prefix_blocks import SpareMemory, layer_prefixes
from heft.models.prefix_states import packed, unpacked
from heft.reft.sites import decoder_of
from heft.training.loss import Loss, answer_loss, loss_in_length_buckets, loss_of_labels
from heft.training.reuse.activation_cache import CachedActivations


@dataclass(frozen=True)
class PrefixReuse(CachedActivations):
    """The prefixes of a stage's training rows; `start` counts edited tokens from the prompt's end.

    Attributes:
        in_place: whether attention reads them where they lie (heft.models.prefix_attention), in passes under
            `attention`; else they are copied into an ordinary cache.
        layout: what the numbers of a token's states are; known once a prefix was computed.
        numbers: of each row that a batch may hold, its number among `examples`; None where these are the same.
        of_base: whether no adapter acts on the prefixes, so that they are computed with none on
            (heft.training.reuse.shared).
        lacks: tokens from a prompt's end that are not cached, where that is fewer than `start`; None where it is not.
    """

    token_axis: ClassVar[int] = 1
    in_place: bool = False
    layout: list[tuple[int, int]] = field(default_factory=list)
    numbers: Sequence[int] | None = None
    of_base: bool = False
    lacks: int | None = None
    spare: SpareMemory = field(default_factory=SpareMemory)

    @property
    def kind(self) -> Hashable:
        return super().kind, self.in_place, self.of_base, self.lacks

    @property
    def loss(self) -> Loss:
        on_prefixes = partial(answer_loss_on_prefixes, reuse=self)
        return partial(loss_in_length_buckets, on_prefixes, equal_lengths=True) if self.equal_lengths else on_prefixes

    def tokens(self, row: int) -> tuple[int, ...]:
        return self.examples[row].prompt[: -(self.start if self.lacks is None else self.lacks)]

    def numbered(self, rows: Sequence[int]) -> list[int]:
        """The numbers of a batch's rows among `examples`."""
        return list(rows) if self.numbers is None else [self.numbers[row] for row in rows]

    def attention(self) -> AbstractContextManager[None]:
        """Inside, the model takes what `cache` gives."""
        return reads_prefix(self.model) if self.in_place else nullcontext()

    def cache(self, rows: Sequence[int], lengths: Sequence[int]) -> Cache:
        """Keys and values of the first `lengths` tokens of each row, aligned at the right.

        Args:
            rows: indices of the batch's rows.
            lengths: tokens taken of each, at most its `cached_length`.
        """
        cached, columns = self.activations_of(rows), max(lengths)
        taken = [cached[row][:, :n] if n else None for row, n in zip(rows, lengths, strict=True)]
        if self.in_place:
            return reading_cache(layer_prefixes(taken, self.layout, self.model.device, self.spare))
        padded = [None if states is None else self.padded(states, columns) for states in taken]
        blank = torch.zeros_like(next(tensor for tensor in padded if tensor is not None))
        return unpacked(torch.stack([blank if tensor is None else tensor for tensor in padded]), self.layout)

    def run(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        cache = DynamicCache()
        if not takes_prompt_lengths(self.model):  # the base, with no adapter or with LoRA of all tokens
            del inputs["prompt_lengths"]
        with base_alone(self.model) if self.of_base else nullcontext():
            decoder_of(self.model)(**inputs, past_key_values=cache, use_cache=True)
        states_BWS, self.layout[:] = packed(cache)
        return states_BWS

    def bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, read off a short row; 0 where no row has a token to cache."""
        rows = [row for row in range(len(self.examples)) if self.cached_length(row)]
        if not rows:
            return 0
        row = min(rows, key=self.cached_length)
        tensor = self.compute([row])[row]
        return len(tensor) * tensor.element_size()


def answer_loss_on_prefixes(model: nn.Module, batch: dict[str, torch.Tensor], reuse: PrefixReuse) -> torch.Tensor:
    """`answer_loss` with the tokens before the first edited one taken from `reuse`: the same value and gradients.

    The batch is cut at one column, as far left as its longest suffix (edited tokens and answer) needs; what stands
    left of it in each row is frozen. Columns in which all rows are padded are left out, since `reuse` knows none.
    """
    batch = select_rows(batch, slice(None))
    mask_BT = batch["attention_mask"]
    width = int((mask_BT.sum(1) - batch["prompt_lengths"]).max()) + reuse.start
    split = mask_BT.shape[1] - width
    if split <= 0:
        return answer_loss(model, batch)
    inputs = {
        "input_ids": batch["input_ids"][:, split:],
        "attention_mask": mask_BT,
        "position_ids": batch["position_ids"][:, split:],
        "past_key_values": reuse.cache(reuse.numbered(batch["row_ids"].tolist()), mask_BT[:, :split].sum(1).tolist()),
        "prompt_lengths": batch["prompt_lengths"],
    }
    with reuse.attention():
        return loss_of_labels(model, inputs, batch["labels"][:, split:])
