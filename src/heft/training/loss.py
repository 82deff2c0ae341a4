"""The loss of a batch: cross entropy of answer tokens, with logits computed only where an answer is predicted."""

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from heft.data import IGNORED

if TYPE_CHECKING:
    from torch import nn


def answer_loss(model: "nn.Module", batch: dict[str, torch.Tensor], edits_prompt: bool) -> torch.Tensor:
    """Sum over the batch's answer tokens of −ln p(token | all before it), in float32.

    Rows are padded on the left, so answers end in the last column and the head works on a few columns only: those
    that come before a label of some row.

    Args:
        model: a causal language model, perhaps wrapped for distribution.
        batch: from `heft.data.training_batch`, on the model's device.
        edits_prompt: whether the model carries a ReFT adapter, which is told where prompts end.

    Returns:
        A scalar; divide it by the number of answer tokens for the mean.
    """
    targets_BT = batch["labels"][:, 1:]
    columns_K = (targets_BT != IGNORED).any(0).nonzero().squeeze(1)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}
    if edits_prompt:
        inputs["prompt_lengths"] = batch["prompt_lengths"]
    logits_BKV = model(**inputs, use_cache=False, logits_to_keep=columns_K).logits
    return F.cross_entropy(
        logits_BKV.float().flatten(0, 1), targets_BT[:, columns_K].flatten(), ignore_index=IGNORED, reduction="sum"
    )
