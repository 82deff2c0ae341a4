"""What the frozen model makes of a row is computed when it is first asked for, and kept where there is a store."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from heft.data.batching import batches_of_like_length, fixed_batches, pass_tokens
from heft.data.encode import EncodedExample
from heft.training.out_of_memory import in_halves
from heft.training.reuse.stores import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS_A_PASS = 16


class CachedActivations(ABC):
    """States of rows, in a store or computed now.

    Attributes:
        model: with the stage's adapters attached.
        examples: the training rows; a batch's `row_ids` are indices into them.
        store: keeps them for later epochs, or nothing.
        rows_a_pass: most rows that are computed together to be kept.
    """

    model: "PreTrainedModel"
    examples: Sequence[EncodedExample]
    store: Store
    rows_a_pass: int

    @abstractmethod
    def kept_length(self, row: int) -> int:
        """Tokens of a row whose states are kept."""

    @abstractmethod
    def compute_together(self, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        """Run these rows through the model, in one pass."""

    def states_of(self, rows: Sequence[int]) -> dict[int, torch.Tensor | None]:
        """The states of each row; None for a row of which no token is kept."""
        states = {row: self.store.get(row) for row in rows}
        missing = [row for row, tensor in states.items() if tensor is None and self.kept_length(row)]
        return states | self._computed(missing)

    def _computed(self, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        if not self.store.lasts:
            return {row: states for part in self._passes(rows) for row, states in self.compute_together(part).items()}
        for company in self._passes(rows):
            in_halves(self._keep, company)
        # what the store gives back lets go of the passes' states, of which it may hold a few rows only
        return {row: self.store.get(row) for row in rows}

    def _keep(self, rows: Sequence[int]) -> None:
        for row, states in self.compute_together(rows).items():
            self.store.put(row, states)

    def _passes(self, rows: Sequence[int]) -> list[list[int]]:
        """Where states stay, each row brings along the rows with which it is always computed."""
        if self.store.lasts:
            return list({id(company): company for company in map(self._companies.__getitem__, rows)}.values())
        lengths = [self.kept_length(row) for row in rows]
        batches = batches_of_like_length(lengths, len(rows), pass_tokens(self.model.device, trains=False))
        return [[rows[i] for i in batch] for batch in batches]

    @cached_property
    def _companies(self) -> dict[int, list[int]]:
        lengths = [self.kept_length(row) for row in range(len(self.examples))]
        return fixed_batches(lengths, self.rows_a_pass, pass_tokens(self.model.device, trains=False))
