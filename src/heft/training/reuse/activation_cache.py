"""What the frozen model makes of a row: computed when it is first needed, and cached where there is a store."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from heft.data.batching import batches_of_like_length, fixed_batches, pass_tokens
from heft.data.encode import EncodedExample
from heft.training.loss import Loss
from heft.training.out_of_memory import in_halves
from heft.training.reuse.stores import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_PER_PASS = 16


class CachedActivations(ABC):
    """Activations of rows, in a store or computed now.

    Attributes:
        model: with the stage's adapters attached.
        examples: the training rows; a batch's `row_ids` are indices into them.
        store: keeps them for later epochs, or nothing.
        rows_per_pass: most rows that are computed together to be cached.
    """

    model: "PreTrainedModel"
    examples: Sequence[EncodedExample]
    store: Store
    rows_per_pass: int

    @property
    @abstractmethod
    def loss(self) -> Loss:
        """The loss of a batch that takes these activations from here."""

    @abstractmethod
    def cached_length(self, row: int) -> int:
        """Tokens of a row whose activations are cached."""

    @abstractmethod
    def compute(self, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        """Run these rows through the model, in one pass."""

    @abstractmethod
    def bytes_per_token(self) -> int:
        """Of what is cached."""

    def activations_of(self, rows: Sequence[int]) -> dict[int, torch.Tensor | None]:
        """The activations of each row; None for a row of which no token is cached."""
        found = {row: self.store.get(row) for row in rows}
        missing = [row for row, tensor in found.items() if tensor is None and self.cached_length(row)]
        return found | self._computed(missing)

    def _computed(self, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        if not self.store.persistent:
            lengths = [self.cached_length(row) for row in rows]
            batches = batches_of_like_length(lengths, len(rows), pass_tokens(self.model.device, trains=False))
            return {row: each for batch in batches for row, each in self.compute([rows[i] for i in batch]).items()}
        # a cached row brings along the rows with which it is always computed
        for batch in {id(batch): batch for batch in map(self._fixed_batches.__getitem__, rows)}.values():
            in_halves(self._cache, batch)
        # what the store gives back lets go of the passes' activations, of which it may hold a few rows only
        return {row: self.store.get(row) for row in rows}

    def _cache(self, rows: Sequence[int]) -> None:
        for row, activations in self.compute(rows).items():
            self.store.put(row, activations)

    @cached_property
    def _fixed_batches(self) -> dict[int, list[int]]:
        lengths = [self.cached_length(row) for row in range(len(self.examples))]
        return fixed_batches(lengths, self.rows_per_pass, pass_tokens(self.model.device, trains=False))
