"""A batch in parts of like length, so that little padding is computed.

On a CPU a pass costs as much as its tokens, padding included, and little for being a pass. A batch whose rows
differ in length is therefore run as several, each padded to its own longest row. The sum of their losses is the batch's
loss, so values and gradients are the same. An accelerator, which wants large passes, gets the batch whole.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from heft.training.reuse import Loss

TOKENS_OF_A_PASS = 150
"""What a further pass costs beside its tokens, in tokens. Measured on two cores, SmolLM2-135M, LoRA: 138 to 168."""


def parts_of_like_length(lengths: Sequence[int], device: torch.device) -> list[list[int]]:
    """Indices of the rows in parts, such that padded tokens and passes cost the least; longest rows first.

    Args:
        lengths: tokens of each row.
        device: where they will run; all in one part where that is no CPU.
    """
    if device.type != "cpu":
        return [list(range(len(lengths)))] if lengths else []
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    longest_first = [lengths[row] for row in order]

    @cache
    def cheapest(start: int) -> tuple[int, int]:
        """Cost of the rows from `start` on, and where their first part ends."""
        if start == len(order):
            return 0, start
        ends = range(start + 1, len(order) + 1)
        return min((TOKENS_OF_A_PASS + (end - start) * longest_first[start] + cheapest(end)[0], end) for end in ends)

    parts, start = [], 0
    while start < len(order):
        end = cheapest(start)[1]
        parts.append(sorted(order[start:end]))
        start = end
    return parts


def loss_by_parts(loss: "Loss", model: "nn.Module", batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch from `heft.data.training_batch`, computed in parts of like length."""
    lengths = batch["attention_mask"].sum(1).tolist()
    parts = parts_of_like_length(lengths, batch["input_ids"].device)
    if len(parts) == 1:
        return loss(model, batch)
    return sum(loss(model, _rows_of(batch, part, max(lengths[row] for row in part))) for part in parts)


def _rows_of(batch: dict[str, torch.Tensor], rows: list[int], width: int) -> dict[str, torch.Tensor]:
    """Some rows of a batch, without the columns in which all of them are padded."""
    return {key: value[rows, -width:] if value.dim() == 2 else value[rows] for key, value in batch.items()}
