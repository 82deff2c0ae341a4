"""The loss of a batch: cross entropy of answer tokens, with logits computed only where an answer is predicted.

Shapes: B rows, T tokens, K columns with logits, V vocabulary.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from heft.data.batching import batches_of_like_length, pass_tokens, select_rows
from heft.data.encode import IGNORED
from heft.models.forward import logits_of

INPUTS = ("input_ids", "attention_mask", "position_ids", "prompt_lengths")

Loss = Callable[[nn.Module, dict[str, torch.Tensor]], torch.Tensor]
"""Sum over a batch's answer tokens of −ln p(token | all before it)."""


def answer_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum over the batch's answer tokens of −ln p(token | all before it), in float32.

    Rows are padded on the left, so answers end in the last column and the head works on a few columns only: those
    that come before a label of some row.

    Args:
        model: a causal language model, perhaps wrapped for distribution.
        batch: from `heft.data.encode.training_batch`, on the model's device.

    Returns:
        A scalar; divide it by the number of answer tokens for the mean.
    """
    return loss_of_labels(model, {key: batch[key] for key in INPUTS}, batch["labels"])


def loss_of_labels(model: nn.Module, inputs: dict, labels_BT: torch.Tensor) -> torch.Tensor:
    """As `answer_loss`, from the arguments of `forward` and labels (B, T) that are −100 but on the answer."""
    targets_BT = labels_BT[:, 1:]
    columns_K = (targets_BT != IGNORED).any(0).nonzero().squeeze(1)
    logits_BKV = logits_of(model, columns_K, **inputs, use_cache=False)
    targets = targets_BT[:, columns_K].flatten()
    return F.cross_entropy(logits_BKV.float().flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")


def plain_loss(equal_lengths: bool = False) -> Loss:
    """The loss that computes every token in every layer; with `equal_lengths` no row stands beside padding."""
    return partial(loss_in_length_buckets, answer_loss, equal_lengths=equal_lengths)


def loss_in_length_buckets(
    loss: Loss, model: nn.Module, batch: dict[str, torch.Tensor], equal_lengths: bool = False
) -> torch.Tensor:
    """The loss of a batch as the sum over buckets of rows of like length (see heft.data.batching).

    The value and the gradients are those of the whole batch, with less padding, or none.
    """
    lengths = batch["attention_mask"].sum(1).tolist()
    cost = pass_tokens(batch["input_ids"].device, trains=True)
    buckets = batches_of_like_length(lengths, len(lengths), cost, equal_lengths)
    if len(buckets) == 1:
        return loss(model, batch)
    return sum(loss(model, select_rows(batch, rows)) for rows in buckets)
