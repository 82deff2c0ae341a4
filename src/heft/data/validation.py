"""Which training rows are set aside to validate on: a share of them, at random, never a text that is trained on."""

from collections.abc import Hashable, Iterator, Sequence
from itertools import islice

import torch

from heft.data.encode import EncodedExample
from heft.recipe.training import validation_rows_of


def split_validation(
    examples: Sequence[EncodedExample], share: float, seed: int
) -> tuple[list[EncodedExample], list[EncodedExample]]:
    """Training and validation rows (at least one of these, if `share` is above 0), both in their order."""
    if not share:
        return list(examples), []
    chosen = set(next(validation_sets([row.belongs_to for row in examples], share, seed)))
    split = [[row for number, row in enumerate(examples) if (number in chosen) == held] for held in (False, True)]
    return split[0], split[1]


def validation_sets(belong_to: Sequence[Hashable], share: float, seed: int) -> Iterator[list[int]]:
    """Numbers of the validation rows of one split after another, without end.

    Each has the next rows of a shuffle, which begins anew when all have been in one. Rows that belong to the same stay
    together, so a set can be smaller than the share says. Where no group is as small as that, the smallest is taken,
    and where all rows are one group, it is parted.

    Args:
        belong_to: what each row belongs to.
        share: of validation rows, above 0.
        seed: of the shuffle.
    """
    count, groups = validation_rows_of(share, len(belong_to)), _groups(belong_to, seed)
    if len(groups) == 1:
        groups = [[row] for row in groups[0]]
    while True:
        taken: list[list[int]] = []
        others: list[list[int]] = []
        left = count
        for rows in groups:
            (taken if len(rows) <= left else others).append(rows)
            left -= len(rows) if len(rows) <= left else 0
        if not taken:
            taken.append(others.pop(min(range(len(others)), key=lambda place: len(others[place]))))
        yield [row for rows in taken for row in rows]
        groups = others + taken


def order_for(number: int, belong_to: Sequence[Hashable], share: float, seed: int) -> list[int]:
    """Numbers of all rows in an order in which `split_validation` has the validation rows of the split `number`, which
    `validation_sets` counts from 0; for 0 the order that they have."""
    if number == 0:
        return list(range(len(belong_to)))
    chosen = next(islice(validation_sets(belong_to, share, seed), number, None))
    others = sorted(set(range(len(belong_to))) - set(chosen))
    order = dict(zip(_shuffled(len(belong_to), seed), [*chosen, *others], strict=True))
    return [order[place] for place in range(len(belong_to))]


def _shuffled(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def _groups(belong_to: Sequence[Hashable], seed: int) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for row in _shuffled(len(belong_to), seed):
        groups.setdefault(belong_to[row], []).append(row)
    return list(groups.values())
