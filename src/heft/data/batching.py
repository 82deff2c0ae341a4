"""Which rows run together, so that little padding is computed.

On a CPU a pass costs as much as its tokens, padding included, and little for being a pass. Rows of unlike length then
run in several passes, each padded to its own longest row. An accelerator wants large passes and gets whole batches.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TypeVar

import torch

TRAINING_PASS_TOKENS = 130
"""What a further pass with its backward pass costs on a CPU beside its tokens, in tokens.

Measured on two cores with SmolLM2-135M and LoRA: 127 to 168.
"""
INFERENCE_PASS_TOKENS = 50
"""The same without a backward pass: 0.1 s where a token takes 2 ms."""


Item = TypeVar("Item")


def pass_tokens(device: torch.device, trains: bool) -> int | None:
    """What a pass costs on this device beside its tokens, in tokens; None where batches are best left whole."""
    if device.type != "cpu":
        return None
    return TRAINING_PASS_TOKENS if trains else INFERENCE_PASS_TOKENS


def batches_of_like_length(
    lengths: Sequence[int], batch_size: int, tokens_of_a_pass: int | None = None, equal: bool = False
) -> list[list[int]]:
    """Indices in batches, longest first, so that little is padded and running out of memory shows at once.

    Args:
        lengths: tokens of each row.
        batch_size: most rows of a batch.
        tokens_of_a_pass: with it, batches are those for which padded tokens and passes together cost the least; without
            it, all but the last are full.
        equal: whether all rows of a batch have one length, for models to which padding matters.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    count = len(order)
    if equal:
        groups = [list(rows) for _, rows in groupby(order, key=lengths.__getitem__)]
        return [group[at : at + batch_size] for group in groups for at in range(0, len(group), batch_size)]
    if tokens_of_a_pass is None:
        return [order[start : start + batch_size] for start in range(0, count, batch_size)]
    cheapest = [(0, count)] * (count + 1)  # from each row on: the cost, and where the first batch ends
    for start in reversed(range(count)):
        ends = range(start + 1, min(count, start + batch_size) + 1)
        longest = lengths[order[start]]
        cheapest[start] = min((tokens_of_a_pass + (end - start) * longest + cheapest[end][0], end) for end in ends)
    batches, start = [], 0
    while start < count:
        end = cheapest[start][1]
        batches.append(order[start:end])
        start = end
    return batches


def packs(items: Iterable[Item], size: Callable[[Item], float], limit: float) -> list[list[Item]]:
    """Items in groups whose sizes add up to `limit` at most, in order; an item that is larger goes alone."""
    groups: list[list[Item]] = []
    room = 0.0
    for item in items:
        needed = size(item)
        if needed > room or not groups:
            groups.append([])
            room = limit
        groups[-1].append(item)
        room -= needed
    return groups


def select_rows(batch: dict[str, torch.Tensor], rows: list[int] | slice) -> dict[str, torch.Tensor]:
    """Some rows of a batch, without the columns in which all of them are padded."""
    width = int(batch["attention_mask"][rows].sum(1).max())
    return {key: value[rows, -width:] if value.dim() == 2 else value[rows] for key, value in batch.items()}
