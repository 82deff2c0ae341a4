"""Forward passes of rows that belong to different adapters.

Shapes: B rows, T tokens of a pass, S columns before them, K columns with logits, V vocabulary; L tokens of one row, W
numbers of a token's states.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

from heft.models.forward import logits_of
from heft.reft.layout import TokenLayout
from heft.serving.catalog import Catalog, Served
from heft.serving.states import BatchStates, Parts, RowStates, parts_of, prefix_cache_of, tensors_of


@dataclass(frozen=True)
class Row:
    """Tokens to compute.

    Attributes:
        served: whose adapters act on it.
        ids: all tokens of the row.
        prompt: how many of them are the prompt, from which positions count.
        keep: for how many of its last tokens logits are wanted.
        known: states of its first tokens; None where none are known.
        later: tokens that follow these in passes to come, the rest of a long prompt.
        tag: for the caller to know it by.
    """

    served: Served
    ids: tuple[int, ...]
    prompt: int
    keep: int = 1
    known: torch.Tensor | None = None
    later: int = 0
    tag: int = 0

    @property
    def new(self) -> int:
        """Tokens that have to be computed."""
        return len(self.ids) - (0 if self.known is None else len(self.known))


@dataclass(frozen=True)
class Computed:
    """A row's result: logits (K, V) in float32 after its last `keep` tokens, and the states of all its tokens."""

    logits_KV: torch.Tensor
    states: RowStates


class Passes:
    """Runs rows through a catalog's model; the caller has switched their adapters on."""

    def __init__(self, catalog: Catalog):
        self._catalog, self._model = catalog, catalog.model
        self.parts: Parts = []

    @torch.inference_mode()
    def whole(self, rows: Sequence[Row]) -> list[Computed]:
        """Rows from their first token on, or from the first whose states are not known.

        Each row computes as many tokens as the one with the most, where it has them: these are columns of the pass in
        any case, and with them no row has padding between its known and its new tokens.
        """
        width = max(row.new for row in rows)
        known = [max(0, len(row.ids) - width) for row in rows]
        columns, lengths = max(known), [len(row.ids) for row in rows]
        device = self._model.device
        numbers_BT = _numbers(lengths, width)
        ids_BT = torch.full((len(rows), width), self._catalog.tokenizer.pad_token_id)
        for each_T, row in zip(ids_BT, rows, strict=True):
            new = row.ids[-width:]
            each_T[width - len(new) :] = torch.tensor(new)
        cache = DynamicCache()
        if columns:
            prefixes = [row.known[:count] if count else self._none() for row, count in zip(rows, known, strict=True)]
            cache = prefix_cache_of(prefixes, self.parts, room=width)
        layout = self._layout(rows, numbers_BT)
        logits_BKV = logits_of(
            self._model,
            max(row.keep for row in rows),
            input_ids=ids_BT.to(device),
            attention_mask=(_numbers(lengths, columns + width) >= 0).long().to(device),
            position_ids=numbers_BT.clamp(min=0).to(device),
            past_key_values=cache,
            use_cache=True,
            token_layout=layout,
        )
        self.parts = self.parts or parts_of(cache)
        tensors = tensors_of(cache)
        return [
            Computed(logits_BKV[i, -row.keep :].float(), RowStates(tensors, i, len(row.ids)))
            for i, row in enumerate(rows)
        ]

    @torch.inference_mode()
    def step(self, rows: Sequence[Row], tokens: Sequence[int], batch: BatchStates) -> torch.Tensor:
        """One more token of each row of a batch: logits (B, V) in float32. `rows` need no `ids` here."""
        device, lengths = self._model.device, [length + 1 for length in batch.lengths]
        numbers_B1 = torch.tensor(batch.lengths)[:, None]
        logits_B1V = logits_of(
            self._model,
            1,
            input_ids=torch.tensor(tokens, device=device)[:, None],
            attention_mask=(_numbers(lengths, batch.columns + 1) >= 0).long().to(device),
            position_ids=numbers_B1.to(device),
            past_key_values=batch.cache,
            use_cache=True,
            token_layout=self._layout(rows, numbers_B1),
        )
        batch.grown()
        return logits_B1V[:, -1].float()

    def _layout(self, rows: Sequence[Row], numbers_BT: torch.Tensor) -> TokenLayout:
        device = self._model.device
        prompt_B = torch.tensor([row.prompt for row in rows], device=device)
        adapter_B1 = torch.tensor([row.served.number for row in rows])[:, None]
        return TokenLayout(numbers_BT.to(device), prompt_B, adapter_B1.expand_as(numbers_BT).to(device))

    def _none(self) -> torch.Tensor:
        width = sum(heads * size for heads, size in self.parts)
        return torch.empty(0, width, dtype=self._model.dtype, device=self._model.device)


def _numbers(lengths: Sequence[int], columns: int) -> torch.Tensor:
    """(B, columns): the number of each token in its row, where rows end at the last column; −1 for padding."""
    numbers = torch.arange(columns) - columns + torch.tensor(lengths)[:, None]
    return numbers.masked_fill(numbers < 0, -1)
