"""Keys and values of single rows, and of the rows of a batch that others join and leave.

A row's states are one matrix (L, W): L tokens, and the W numbers that each has in all layers, keys and values of one
layer after another. In a batch rows end at the same column and are padded on the left, so that one new token is one new
column. Shapes: B rows, H heads, S columns, D numbers of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 64
"""Columns that are allocated beyond those in use, so that most tokens are written without a copy of all before them."""

SPARE = 1
"""Columns of a batch on a CPU that no row uses, so that rows of one length have a mask too: without one, sdpa takes a
way for grouped queries that is slower there."""

Parts = list[tuple[int, int]]
"""(heads, size of a head) of keys of layer 0, its values, and so on."""


class RoomyLayer(DynamicLayer):
    """One layer of a batch, with room for columns to come; otherwise as transformers' own.

    Args:
        keys, values: with that room at the end.
        columns: in use.
    """

    is_croppable = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, columns: int):
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._held = [keys, values]
        self.keys, self.values = (held[:, :, :columns] for held in self._held)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Write new columns behind those in use, and give all in use back."""
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if end > self._held[0].shape[2]:
            self._held = [functional.pad(now, (0, 0, 0, end - start + ROOM)) for now in (self.keys, self.values)]
        for held, new in zip(self._held, (key_states, value_states), strict=True):
            held[:, :, start:end] = new
        self.keys, self.values = (held[:, :, :end] for held in self._held)
        return self.keys, self.values


def tensors_of(cache: Cache) -> list[torch.Tensor]:
    """(B, H, S, D) of keys of layer 0, its values, and so on."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def parts_of(cache: Cache) -> Parts:
    """What a token's numbers are in each layer."""
    return [(tensor.shape[1], tensor.shape[3]) for tensor in tensors_of(cache)]


@dataclass(frozen=True)
class RowStates:
    """A row's states where a pass has left them: the last `length` columns of row `row` of its tensors."""

    tensors: Sequence[torch.Tensor]
    row: int
    length: int

    def views(self) -> list[torch.Tensor]:
        """(1, H, L, D) of each tensor."""
        return [each[self.row : self.row + 1, :, each.shape[2] - self.length :] for each in self.tensors]

    def matrix(self, start: int = 0, end: int | None = None) -> torch.Tensor:
        """(L, W): tokens `start` to `end`, as a tensor of its own."""
        return torch.cat([each[0, :, start:end].transpose(0, 1).flatten(1) for each in self.views()], dim=1)


def views_of(states_LW: torch.Tensor, parts: Parts) -> list[torch.Tensor]:
    """(1, H, L, D) of keys of layer 0, its values, and so on."""
    cut = states_LW.split([heads * size for heads, size in parts], dim=1)
    return [each.unflatten(1, part).transpose(0, 1)[None] for each, part in zip(cut, parts, strict=True)]


def as_layers(groups: Sequence[Sequence[torch.Tensor]], columns: int, room: int) -> list[torch.Tensor]:
    """(B, H, columns + room, D) of keys of layer 0, its values, and so on.

    Args:
        groups: of rows, each with a tensor (b, H, L, D) of every layer's keys and values, which ends at column
            `columns`.
        columns: in use.
        room: columns beyond those.
    """
    found = []
    for tensors in zip(*groups, strict=True):
        counts, (_, heads, _, size) = [len(each) for each in tensors], tensors[0].shape
        whole = tensors[0].new_zeros(sum(counts), heads, columns + room, size)
        for held, each in zip(whole.split(counts), tensors, strict=True):
            held[:, :, columns - each.shape[2] : columns] = each
        found.append(whole)
    return found


def cache_of(tensors: Sequence[torch.Tensor], columns: int) -> Cache:
    """A cache that holds these tensors, so many columns of which are in use."""
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return Cache(layers=[RoomyLayer(keys, values, columns) for keys, values in pairs])


def prefix_cache_of(rows: Sequence[torch.Tensor], parts: Parts, room: int) -> Cache:
    """A cache that holds prefixes (L, W), which end at one column, with room for the columns of a pass."""
    columns = max(map(len, rows))
    return cache_of(as_layers([views_of(row, parts) for row in rows], columns, room), columns)


def _columns_of(lengths: Sequence[int], device: torch.device) -> int:
    """Of a batch of rows of these lengths."""
    return max(lengths) + (SPARE if device.type == "cpu" else 0)


class BatchStates:
    """The keys and values of a batch that goes on, one token a row and pass.

    Attributes:
        lengths: tokens of each row.
        cache: as the model takes it; None while there are no rows.
    """

    def __init__(self):
        self.lengths: list[int] = []
        self.cache: Cache | None = None

    @property
    def columns(self) -> int:
        """Columns in use."""
        return 0 if self.cache is None else self.cache.layers[0].keys.shape[2]

    def join(self, rows: Sequence[RowStates]) -> None:
        """Add rows behind those that are there."""
        columns = max(self.columns, _columns_of([row.length for row in rows], rows[0].tensors[0].device))
        there = [] if self.cache is None else [tensors_of(self.cache)]
        self.cache = cache_of(as_layers([*there, *(row.views() for row in rows)], columns, ROOM), columns)
        self.lengths += [row.length for row in rows]

    def keep(self, rows: Sequence[int]) -> None:
        """Let all rows but these go, and columns that no row needs any more."""
        self.lengths = [self.lengths[row] for row in rows]
        if not rows:
            self.cache = None
            return
        device = self.cache.layers[0].keys.device
        columns, chosen = _columns_of(self.lengths, device), torch.tensor(rows, device=device)
        tensors = [each[:, :, each.shape[2] - columns :].index_select(0, chosen) for each in tensors_of(self.cache)]
        self.cache = cache_of(tensors, columns)

    def grown(self) -> None:
        """Note that a pass has written one token for each row."""
        self.lengths = [length + 1 for length in self.lengths]
