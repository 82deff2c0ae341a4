"""Cached prefixes of a batch's rows as the blocks that heft.models.prefix_attention reads.

In float32 on a CPU each row is a block of its own, which is read where the cache keeps it: no copy, and no product with
padding. In bfloat16, where a product of few rows costs several times its share of a product of many, and on a GPU, rows
are put side by side first. For SmolLM2's 30 layers, 16 rows of 100 to 150 tokens and 9 columns that attend to them, one
core of an EPYC took 45 ms for a forward pass's products row by row and 54 side by side in float32, 64 and 23 in
bfloat16, and 11 to 18 ms to put the rows side by side.

Shapes: B rows, S prefix columns, n tokens of one row, W numbers per token (heft.models.prefix_states); H, D, E of
heft.models.prefix_attention.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from math import prod

import torch

from heft.models.prefix_attention import Block, LayerPrefix
from heft.models.prefix_states import layers_of_states

Parts = Sequence[tuple[int, int]]


def layer_prefixes(
    rows: Sequence[torch.Tensor | None], parts: Parts, device: torch.device, spare: "SpareMemory"
) -> list[LayerPrefix]:
    """The prefixes of a batch, for each layer.

    Args:
        rows: the states (W, n) of each row, wherever the cache keeps them; None for a row without a prefix. One at
            least has some.
        parts: what W is, as `heft.models.prefix_states.packed` gave it.
        device: of the model.
        spare: where rows are put side by side.
    """
    present = [(number, row) for number, row in enumerate(rows) if row is not None]
    columns = max(row.shape[1] for _, row in present)
    if read_row_by_row(device, present[0][1].dtype):
        memory, tensors = None, [(number, layers_of_states(row[None], parts)) for number, row in present]
    else:
        memory = spare.lend(sum(map(prod, parts)) * len(rows) * columns, present[0][1].dtype, device)
        tensors = [(0, _side_by_side(memory.numbers, rows, columns, parts))]
    return [
        LayerPrefix([_block(first, of_rows[at], of_rows[at + 1]) for first, of_rows in tensors], columns, memory)
        for at in range(0, len(parts), 2)
    ]


def read_row_by_row(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products with each row's prefix by itself are at least as fast as with all side by side."""
    return device.type == "cpu" and dtype.itemsize >= 4


@dataclass(frozen=True, eq=False)
class Loan:
    """Memory on loan: `numbers` is somebody else's once this object is gone."""

    numbers: torch.Tensor


class SpareMemory:
    """Memory for rows side by side, which a CPU lends again once it is back: fresh pages cost more than the copy."""

    def __init__(self):
        self._loan: weakref.ref[Loan] | None = None
        self._flat = torch.empty(0)

    def lend(self, count: int, dtype: torch.dtype, device: torch.device) -> Loan:
        """So many numbers of any value."""
        is_lent = self._loan is not None and self._loan() is not None  # to a graph that was not gone backward yet
        if is_lent or device.type != "cpu":
            return Loan(torch.empty(count, dtype=dtype, device=device))
        if self._flat.dtype != dtype or len(self._flat) < count:
            self._flat = torch.empty(count, dtype=dtype)
        loan = Loan(self._flat[:count])
        self._loan = weakref.ref(loan)
        return loan


def _block(first: int, keys: torch.Tensor, values: torch.Tensor) -> Block:
    return Block(first * keys.shape[1], keys.flatten(0, 1), values.flatten(0, 1))


def _side_by_side(
    flat: torch.Tensor, rows: Sequence[torch.Tensor | None], columns: int, parts: Parts
) -> list[torch.Tensor]:
    """For each part a tensor (B, H, D, S) of adjacent numbers, aligned at the right, with zeros left of each row."""
    runs = [(numbers, len(list(alike))) for numbers, alike in groupby(map(prod, parts))]
    starts = [0, *accumulate(numbers * alike for numbers, alike in runs)]
    tensors: list[torch.Tensor] = []
    for (numbers, alike), (start, end) in zip(runs, pairwise(starts), strict=True):
        run = flat[start * len(rows) * columns : end * len(rows) * columns].view(alike, len(rows), numbers, columns)
        for number, row in enumerate(rows):
            own = 0 if row is None else row.shape[1]
            run[:, number, :, : columns - own] = 0
            if own:
                run[:, number, :, columns - own :] = row[start:end].unflatten(0, (alike, numbers))
        tensors += run.unbind()
    return [tensor.unflatten(1, part) for tensor, part in zip(tensors, parts, strict=True)]
