"""Which rows are set aside to evaluate on: a share of every label, at random, never a prompt that is trained on."""

import random
from collections.abc import Hashable, Sequence


def set_aside(prompts: Sequence[Hashable], labels: Sequence[Hashable], share: float, seed: int) -> set[int]:
    """Indices of the rows that are set aside.

    Rows of one prompt stay together and count under the label of the first of them. Of every label the same share of
    prompts is taken, rounded so that the sum is right (largest remainders); at least one prompt is taken and one left.

    Args:
        prompts: of the rows; equal ones stay together.
        labels: of the rows; all alike where there are none.
        share: between 0 and 1.
        seed: of the choice.
    """
    rows_of: dict[Hashable, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows_of.setdefault(prompt, []).append(row)
    groups: dict[Hashable, list[list[int]]] = {}
    for rows in rows_of.values():
        groups.setdefault(labels[rows[0]], []).append(rows)
    total = min(max(1, round(share * len(rows_of))), len(rows_of) - 1)
    exact = [share * len(members) for members in groups.values()]
    counts = [int(amount) for amount in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: max(0, total - sum(counts))]:
        counts[i] += 1
    generator = random.Random(seed)
    chosen: set[int] = set()
    for members, count in zip(groups.values(), counts, strict=True):
        for rows in generator.sample(members, count):
            chosen.update(rows)
    return chosen
