"""What the frozen model makes of a row: computed when it is first needed, and cached where there is a store.

Shapes: B rows, S cached tokens, W numbers cached per token. A row's activations are one matrix, (S, W) or (W, S).
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from heft.data.batching import batches_of_like_length, pass_tokens
from heft.data.encode import EncodedExample, left_pad
from heft.training.loss import Loss
from heft.training.out_of_memory import in_halves
from heft.training.reuse.stores import Store

ROWS_PER_PASS = 16


@dataclass(frozen=True)
class CachedActivations(ABC):
    """Activations of rows, in a store or computed now.

    Attributes:
        model: with the stage's adapters attached.
        examples: the training rows; a batch's `row_ids` are indices into them.
        start: as in `heft.training.reuse.plan.ReusePlan`.
        pad_id: id of the padding token.
        store: keeps activations for later epochs, or nothing.
        rows_per_pass: most rows that are computed together to be cached.
        equal_lengths: whether rows run with others of their length only, for models to which padding matters.
        by_request: whether rows are computed with others that are asked for at the same time, so that their numbers are
            the same whether or not they are kept; the order in which rows are asked for must be the same then.
        token_axis: of a row's matrix, along which its tokens are.
    """

    token_axis: ClassVar[int] = 0

    model: PreTrainedModel
    examples: Sequence[EncodedExample]
    start: int
    pad_id: int
    store: Store
    rows_per_pass: int = ROWS_PER_PASS
    equal_lengths: bool = False
    by_request: bool = False

    @property
    def kind(self) -> Hashable:
        """What of it may be right or wrong for a model (heft.models.verdicts)."""
        return type(self).__name__, self.start

    @property
    @abstractmethod
    def loss(self) -> Loss:
        """The loss of a batch that takes these activations from here."""

    @abstractmethod
    def tokens(self, row: int) -> tuple[int, ...]:
        """Ids of those tokens of a row whose activations are cached."""

    @abstractmethod
    def run(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Activations (B, S, W) or (B, W, S) of a batch of such tokens, padded on the left."""

    @abstractmethod
    def bytes_per_token(self) -> int:
        """Of what is cached."""

    def cached_length(self, row: int) -> int:
        """How many tokens of a row are cached."""
        return len(self.tokens(row))

    def activations_of(self, rows: Sequence[int]) -> dict[int, torch.Tensor | None]:
        """The activations of each row; None for a row of which no token is cached."""
        found = {row: self.store.get(row) for row in rows}
        missing = [row for row, tensor in found.items() if tensor is None and self.cached_length(row)]
        return found | self._computed(missing)

    def padded(self, activations: torch.Tensor, columns: int) -> torch.Tensor:
        """A row's activations on the model's device, with zeros before its tokens, which are then so many."""
        activations = activations.to(self.model.device, non_blocking=True)
        missing = columns - activations.shape[self.token_axis]
        return F.pad(activations, (missing, 0) if self.token_axis else (0, 0, missing, 0))

    @torch.no_grad()
    def compute(self, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        """Run these rows through the model, in one pass."""
        inputs = left_pad([self.tokens(row) for row in rows], self.pad_id, self.model.device)
        lengths = [len(self.examples[row].prompt) for row in rows]
        states = self.run({**inputs, "prompt_lengths": torch.tensor(lengths, device=self.model.device)})
        columns = states.shape[1 + self.token_axis]
        counts = [self.cached_length(row) for row in rows]
        return {
            row: states[i].narrow(self.token_axis, columns - count, count)
            for i, (row, count) in enumerate(zip(rows, counts, strict=True))
        }

    def _computed(self, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        asked = self._batches(rows, self.rows_per_pass if self.by_request else len(rows))
        if not self.store.persistent:
            return {row: each for batch in asked for row, each in self.compute(batch).items()}
        # a cached row brings along the rows with which it is always computed
        always = asked if self.by_request else map(self._fixed_batches.__getitem__, rows)
        for batch in {id(batch): batch for batch in always}.values():
            in_halves(self._cache, batch)
        # what the store returns does not hold on to the passes' activations, of which it may have a few rows only
        return {row: self.store.get(row) for row in rows}

    def _cache(self, rows: Sequence[int]) -> None:
        for row, activations in self.compute(rows).items():
            self.store.put(row, activations)

    @cached_property
    def _fixed_batches(self) -> dict[int, list[int]]:
        """For each row with cached tokens, the rows of like length with which it is always computed, itself among them.

        The last bits of a row's numbers depend on what else is in its pass, and they are the same after a resume.
        """
        rows = [row for row in range(len(self.examples)) if self.cached_length(row)]
        return {row: batch for batch in self._batches(rows, self.rows_per_pass) for row in batch}

    def _batches(self, rows: Sequence[int], most: int) -> list[list[int]]:
        """Rows in batches of `most` at most, of like length."""
        lengths, cost = list(map(self.cached_length, rows)), pass_tokens(self.model.device, trains=False)
        batches = batches_of_like_length(lengths, most, cost, self.equal_lengths)
        return [[rows[i] for i in batch] for batch in batches]
