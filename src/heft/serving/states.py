"""Keys and values of single rows, and of the rows of a batch that others join and leave.

A row's states are one matrix (L, W): L tokens, and the W numbers that each has in all layers, keys and values of one
layer after another. In a batch rows end at the same column and are padded on the left, so that one new token is one new
column. Shapes: B rows, H heads, S columns, D numbers of a head.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 64
"""Columns that are allocated beyond those in use, so that most tokens are written without a copy of all before them."""

Parts = list[tuple[int, int]]
"""(heads, size of a head) of keys of layer 0, its values, and so on."""


class RoomyLayer(DynamicLayer):
    """One layer of a batch, with room for columns to come; otherwise as transformers' own."""

    is_croppable = False

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._held = [keys, values]
        self.keys, self.values = keys, values

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


def parts_of(cache: Cache) -> Parts:
    """What a token's numbers are in each layer."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return [(tensor.shape[1], tensor.shape[3]) for tensor in tensors]


def row_states(cache: Cache, row: int, length: int) -> torch.Tensor:
    """(L, W): the last `length` columns of a row, as a tensor of its own."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return torch.cat([each[row, :, each.shape[2] - length :].transpose(0, 1).flatten(1) for each in tensors], dim=1)


def as_layers(rows: Sequence[torch.Tensor], parts: Parts, width: int) -> list[torch.Tensor]:
    """(B, H, width, D) of keys of layer 0, its values, and so on, of rows (L, W) that end at the last column."""
    whole_BSW = torch.stack([functional.pad(each, (0, 0, width - len(each), 0)) for each in rows])
    cut = whole_BSW.split([heads * size for heads, size in parts], dim=2)
    return [each.unflatten(2, part).transpose(1, 2) for each, part in zip(cut, parts, strict=True)]


def prefix_cache_of(rows: Sequence[torch.Tensor], parts: Parts) -> DynamicCache:
    """A cache that holds prefixes (L, W), which end at one column."""
    tensors, cache = as_layers(rows, parts, max(map(len, rows))), DynamicCache()
    for layer in range(len(tensors) // 2):
        cache.update(tensors[2 * layer], tensors[2 * layer + 1], layer)
    return cache


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

    def join(self, rows: Sequence[torch.Tensor], parts: Parts) -> None:
        """Add rows (L, W) behind those that are there."""
        lengths = [len(each) for each in rows]
        width = max([self.columns, *lengths])
        new = as_layers(rows, parts, width)
        if self.cache is None:
            self._hold(new)
        else:
            old = [tensor for layer in self.cache.layers for tensor in (layer.keys, layer.values)]
            more = width - self.columns
            self._hold([torch.cat([functional.pad(o, (0, 0, more, 0)), n]) for o, n in zip(old, new, strict=True)])
        self.lengths += lengths

    def keep(self, rows: Sequence[int]) -> None:
        """Let all rows but these go, and columns that no row needs any more."""
        self.lengths = [self.lengths[row] for row in rows]
        if not rows:
            self.cache = None
            return
        width = max(self.lengths)
        chosen = torch.tensor(rows, device=self.cache.layers[0].keys.device)
        tensors = [tensor for layer in self.cache.layers for tensor in (layer.keys, layer.values)]
        self._hold([each[:, :, each.shape[2] - width :].index_select(0, chosen) for each in tensors])

    def grown(self) -> None:
        """Note that a pass has written one token for each row."""
        self.lengths = [length + 1 for length in self.lengths]

    def _hold(self, tensors: list[torch.Tensor]) -> None:
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        self.cache = Cache(layers=[RoomyLayer(keys.contiguous(), values.contiguous()) for keys, values in pairs])
