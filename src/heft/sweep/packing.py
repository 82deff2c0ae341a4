"""Which tokens go through the model, where several adapters work on the same rows in one pass.

A copy is one adapter's work on one row: a prompt and what is to be predicted after it. Where an adapter edits last
positions only, a copy needs just the tokens from its first edited one on; the copies of a row then stand side by side
in one sequence behind the row's prefix, which exists once, and a mask keeps them apart. Else a copy is a row of its
own.

Shapes: N copies, U sequences, S prefix columns, T columns of this pass.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from heft.data.encode import IGNORED, EncodedExample

SIDE_BY_SIDE = 256
"""Tokens of a sequence of copies at most: attention between copies is computed and masked, so more saves nothing."""

PREFIX, PADDING = -1, -2
Item = TypeVar("Item")
NO_ADAPTER = -1
"""The adapter of a copy that none edits."""


@dataclass(frozen=True)
class WorkItem:
    """One adapter's work on one row.

    Attributes:
        adapter: number of the adapter, or NO_ADAPTER.
        row: index of the example.
        start: first token of the row that this copy runs; those before it are the row's prefix.
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
    """Copies in sequences, as tensors (U, T).

    Attributes:
        ids: token ids.
        numbers: number of each token in its own row, from 0; −1 for padding.
        copies: which copy a token belongs to; PADDING for none.
        targets: the id that a token predicts, or −100.
        rows: the example of each sequence.
    """

    ids: torch.Tensor
    numbers: torch.Tensor
    copies: torch.Tensor
    targets: torch.Tensor
    rows: list[int]


def packs(items: Iterable[Item], size: Callable[[Item], float], limit: float) -> list[list[Item]]:
    """Items in groups whose sizes add up to `limit` at most, in order; an item that is larger goes alone."""
    groups: list[list[Item]] = []
    room = 0.0
    for item in items:
        tokens = size(item)
        if tokens > room or not groups:
            groups.append([])
            room = limit
        groups[-1].append(item)
        room -= tokens
    return groups


def side_by_side(copies: Sequence[WorkItem], examples: Sequence[EncodedExample], pad_id: int) -> PackedBatch:
    """Put the copies of each row behind one another, in as few tokens as whole sequences of one width allow.

    Copies of a sequence are padded on the left to common widths, so that what predicts an answer stands in the same
    columns of every sequence.
    """
    sequences = _sequences(copies, examples)
    widths = [
        max(
            copies[sequence[slot]].width(examples[copies[sequence[slot]].row])
            for sequence in sequences
            if slot < len(sequence)
        )
        for slot in range(max(map(len, sequences)))
    ]
    places = [(u, n, sum(widths[: slot + 1])) for u, seq in enumerate(sequences) for slot, n in enumerate(seq)]
    return _fill(copies, examples, places, (len(sequences), sum(widths)), pad_id)


def one_by_one(copies: Sequence[WorkItem], examples: Sequence[EncodedExample], pad_id: int) -> PackedBatch:
    """Every copy a sequence of its own, padded on the left."""
    width = max(copy.width(examples[copy.row]) for copy in copies)
    return _fill(copies, examples, [(n, n, width) for n in range(len(copies))], (len(copies), width), pad_id)


def _sequences(copies: Sequence[WorkItem], examples: Sequence[EncodedExample]) -> list[list[int]]:
    """Numbers of the copies in each sequence: one row's, longest first, and few enough."""
    by_row: dict[int, list[int]] = {}
    for number, copy in enumerate(copies):
        by_row.setdefault(copy.row, []).append(number)
    longest = max(copy.width(examples[copy.row]) for copy in copies)
    limit = max(1, SIDE_BY_SIDE // longest)
    counts = [len(numbers) for numbers in by_row.values()]
    slots = min(
        {min(count, limit) for count in counts}, key=lambda n: (n * sum(-(-count // n) for count in counts), -n)
    )
    sequences = []
    for numbers in by_row.values():
        numbers.sort(key=lambda n: -copies[n].width(examples[copies[n].row]))
        sequences += [numbers[i : i + slots] for i in range(0, len(numbers), slots)]
    return sequences


def _fill(
    copies: Sequence[WorkItem],
    examples: Sequence[EncodedExample],
    places: Sequence[tuple[int, int, int]],
    shape: tuple[int, int],
    pad_id: int,
) -> PackedBatch:
    """Write each copy so that it ends before a column; `places` are (sequence, copy, that column)."""
    ids, targets = torch.full(shape, pad_id), torch.full(shape, IGNORED)
    numbers, copy_of = torch.full(shape, -1), torch.full(shape, PADDING)
    rows = [0] * shape[0]
    for sequence, n, end in places:
        copy = copies[n]
        tokens = copy.ids(examples[copy.row])
        here = slice(end - len(tokens), end)
        ids[sequence, here] = torch.tensor(tokens)
        numbers[sequence, here] = torch.arange(copy.start, copy.start + len(tokens))
        copy_of[sequence, here] = n
        targets[sequence, end - len(copy.continuation) : end] = torch.tensor(copy.continuation)
        rows[sequence] = copy.row
    return PackedBatch(ids, numbers, copy_of, targets, rows)


def mask_of(
    grid: PackedBatch, starts: torch.Tensor, prefix_numbers: torch.Tensor, window: int | None = None
) -> torch.Tensor:
    """Bool (U, 1, T, S + T): which tokens each one sees: its copy's up to itself, and the prefix before its copy.

    Args:
        grid: copies side by side.
        starts: (U, T) first token of the copy that a token belongs to.
        prefix_numbers: (U, S) number of each prefix token; −1 for padding.
        window: tokens that are seen at most, itself included (sliding attention); None for all.
    """
    prefix_copies = torch.full_like(prefix_numbers, PREFIX).masked_fill(prefix_numbers < 0, PREFIX - 2)
    key_copies = torch.cat([prefix_copies, grid.copies], dim=1)[:, None]
    key_numbers = torch.cat([prefix_numbers, grid.numbers], dim=1)[:, None]
    numbers, copies = grid.numbers[..., None], grid.copies[..., None]
    own = (key_copies == copies) & (key_numbers <= numbers)  # padding sees padding, so that no row of the mask is empty
    seen = own | ((key_copies == PREFIX) & (key_numbers < starts[..., None]) & (copies >= 0))
    if window is not None:
        seen &= numbers - key_numbers < window
    return seen[:, None]
