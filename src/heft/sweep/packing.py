"""Which tokens go through the model, where several adapters work on the same rows in one pass.

An item is one adapter's work on one row: a prompt and what is to be predicted after it. Where an adapter edits last
positions only, an item needs just the tokens from its first edited one on; the items of a row then stand side by side
in one sequence behind the row's prefix, which exists once, and a mask keeps them apart. Else an item is a row of its
own.

Shapes: N items, U sequences, S prefix columns, T columns of this pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from heft.data.encode import IGNORED, EncodedExample

SIDE_BY_SIDE = 256
"""Tokens of a sequence of items at most: attention between items is computed and masked, so more saves nothing."""

PREFIX, PADDING = -1, -2
NO_ADAPTER = -1
"""The adapter of an item that none edits."""


@dataclass(frozen=True)
class WorkItem:
    """One adapter's work on one row.

    Attributes:
        adapter: number of the adapter, or NO_ADAPTER.
        row: index of the example.
        start: first token of the row that this item runs; those before it are the row's prefix.
        continuation: ids that are predicted after the prompt.
    """

    adapter: int
    row: int
    start: int
    continuation: tuple[int, ...]

    def ids(self, example: EncodedExample) -> tuple[int, ...]:
        """The tokens that run: no output is needed after the last token of the continuation."""
        return (example.prompt + self.continuation[:-1])[self.start :]

    def width(self, example: EncodedExample) -> int:
        """How many tokens run."""
        return len(example.prompt) + len(self.continuation) - 1 - self.start


@dataclass(frozen=True)
class PackedBatch:
    """Items in sequences, as tensors (U, T).

    Attributes:
        ids: token ids.
        numbers: number of each token in its own row, from 0; −1 for padding.
        item_of: which item a token belongs to; PADDING for none.
        targets: the id that a token predicts, or −100.
        rows: the example of each sequence.
    """

    ids: torch.Tensor
    numbers: torch.Tensor
    item_of: torch.Tensor
    targets: torch.Tensor
    rows: list[int]


def side_by_side(items: Sequence[WorkItem], examples: Sequence[EncodedExample], pad_id: int) -> PackedBatch:
    """Put the items of each row behind one another, in as few tokens as whole sequences of one width allow.

    Items of a sequence are padded on the left to common widths, so that what predicts an answer stands in the same
    columns of every sequence.
    """
    of_items = [item.width(examples[item.row]) for item in items]
    sequences = _sequences(items, of_items)
    slots = range(max(map(len, sequences)))
    widths = [max(of_items[seq[slot]] for seq in sequences if slot < len(seq)) for slot in slots]
    places = [(u, n, sum(widths[: slot + 1])) for u, seq in enumerate(sequences) for slot, n in enumerate(seq)]
    return _fill(items, examples, places, (len(sequences), sum(widths)), pad_id)


def one_by_one(items: Sequence[WorkItem], examples: Sequence[EncodedExample], pad_id: int) -> PackedBatch:
    """Every item a sequence of its own, padded on the left."""
    width = max(item.width(examples[item.row]) for item in items)
    return _fill(items, examples, [(n, n, width) for n in range(len(items))], (len(items), width), pad_id)


def _sequences(items: Sequence[WorkItem], widths: Sequence[int]) -> list[list[int]]:
    """Numbers of the items in each sequence: one row's, longest first, and few enough."""
    by_row: dict[int, list[int]] = {}
    for number, item in enumerate(items):
        by_row.setdefault(item.row, []).append(number)
    limit = max(1, SIDE_BY_SIDE // max(widths))
    counts = [len(numbers) for numbers in by_row.values()]
    slots = min(
        {min(count, limit) for count in counts}, key=lambda n: (n * sum(-(-count // n) for count in counts), -n)
    )
    sequences = []
    for numbers in by_row.values():
        numbers.sort(key=lambda n: -widths[n])
        sequences += [numbers[i : i + slots] for i in range(0, len(numbers), slots)]
    return sequences


def _fill(
    items: Sequence[WorkItem],
    examples: Sequence[EncodedExample],
    places: Sequence[tuple[int, int, int]],
    shape: tuple[int, int],
    pad_id: int,
) -> PackedBatch:
    """Write each item so that it ends before a column; `places` are (sequence, item, that column)."""
    ids, targets = torch.full(shape, pad_id), torch.full(shape, IGNORED)
    numbers, item_of = torch.full(shape, -1), torch.full(shape, PADDING)
    rows = [0] * shape[0]
    for sequence, n, end in places:
        item = items[n]
        tokens = item.ids(examples[item.row])
        here = slice(end - len(tokens), end)
        ids[sequence, here] = torch.tensor(tokens)
        numbers[sequence, here] = torch.arange(item.start, item.start + len(tokens))
        item_of[sequence, here] = n
        targets[sequence, end - len(item.continuation) : end] = torch.tensor(item.continuation)
        rows[sequence] = item.row
    return PackedBatch(ids, numbers, item_of, targets, rows)


def mask_of(
    batch: PackedBatch, starts: torch.Tensor, prefix_numbers: torch.Tensor, window: int | None = None
) -> torch.Tensor:
    """Bool (U, 1, T, S + T): which tokens each one sees: its item's up to itself, and the prefix before its item.

    Args:
        batch: items side by side.
        starts: (U, T) first token of the item that a token belongs to.
        prefix_numbers: (U, S) number of each prefix token; −1 for padding.
        window: tokens that are seen at most, itself included (sliding attention); None for all.
    """
    prefix_items = torch.full_like(prefix_numbers, PREFIX).masked_fill(prefix_numbers < 0, PREFIX - 2)
    key_items = torch.cat([prefix_items, batch.item_of], dim=1)[:, None]
    key_numbers = torch.cat([prefix_numbers, batch.numbers], dim=1)[:, None]
    numbers, items = batch.numbers[..., None], batch.item_of[..., None]
    own = (key_items == items) & (key_numbers <= numbers)  # padding sees padding, so that no row of the mask is empty
    seen = own | ((key_items == PREFIX) & (key_numbers < starts[..., None]) & (items >= 0))
    if window is not None:
        seen &= numbers - key_numbers < window
    return seen[:, None]
