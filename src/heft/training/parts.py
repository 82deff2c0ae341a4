"""A batch's loss as the sum of its parts' losses, each of rows of like length (see heft.data.batching)."""

from typing import TYPE_CHECKING

import torch

from heft.data.batching import batches_of_like_length, pass_tokens

if TYPE_CHECKING:
    from torch import nn

    from heft.training.reuse.decide import Loss


def loss_in_length_buckets(
    loss: "Loss", model: "nn.Module", batch: dict[str, torch.Tensor], equal_lengths: bool = False
) -> torch.Tensor:
    """The loss of a batch from `training_batch`: the same value and gradients, with less padding, or none."""
    lengths = batch["attention_mask"].sum(1).tolist()
    cost = pass_tokens(batch["input_ids"].device, trains=True)
    parts = batches_of_like_length(lengths, len(lengths), cost, equal_lengths)
    if len(parts) == 1:
        return loss(model, batch)
    return sum(loss(model, select_rows(batch, part)) for part in parts)


def select_rows(batch: dict[str, torch.Tensor], rows: list[int] | slice) -> dict[str, torch.Tensor]:
    """Some rows of a batch, without the columns in which all of them are padded."""
    width = int(batch["attention_mask"][rows].sum(1).max())
    return {key: value[rows, -width:] if value.dim() == 2 else value[rows] for key, value in batch.items()}
