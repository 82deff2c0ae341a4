"""A batch's loss as the sum of its parts' losses, each of rows of like length (see heft.batching)."""

from typing import TYPE_CHECKING

import torch

from heft.batching import batches_of_like_length, pass_tokens

if TYPE_CHECKING:
    from torch import nn

    from heft.training.reuse import Loss


def loss_by_parts(loss: "Loss", model: "nn.Module", batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss of a batch from `heft.data.training_batch`: the same value and gradients, with less padding."""
    lengths = batch["attention_mask"].sum(1).tolist()
    cost = pass_tokens(batch["input_ids"].device, trains=True)
    parts = batches_of_like_length(lengths, len(lengths), cost)
    if len(parts) == 1:
        return loss(model, batch)
    return sum(loss(model, _rows_of(batch, part, lengths[part[0]])) for part in parts)


def _rows_of(batch: dict[str, torch.Tensor], rows: list[int], width: int) -> dict[str, torch.Tensor]:
    """Some rows of a batch, without the columns in which all of them are padded."""
    return {key: value[rows, -width:] if value.dim() == 2 else value[rows] for key, value in batch.items()}
