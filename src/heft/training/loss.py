"""The loss of a batch: cross entropy of answer tokens, with logits computed only where an answer is predicted."""

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from heft.data.encode import IGNORED
from heft.models.forward import logits_of
from heft.training.parts import select_rows

if TYPE_CHECKING:
    from torch import nn

    from heft.training.reuse.lower_layers import LowerLayerReuse
    from heft.training.reuse.prefix import PrefixReuse

INPUTS = ("input_ids", "attention_mask", "position_ids")


def answer_loss(model: "nn.Module", batch: dict[str, torch.Tensor], edits_prompt: bool) -> torch.Tensor:
    """Sum over the batch's answer tokens of −ln p(token | all before it), in float32.

    Rows are padded on the left, so answers end in the last column and the head works on a few columns only: those
    that come before a label of some row.

    Args:
        model: a causal language model, perhaps wrapped for distribution.
        batch: from `heft.data.encode.training_batch`, on the model's device.
        edits_prompt: whether the model carries a ReFT adapter, which is told where prompts end.

    Returns:
        A scalar; divide it by the number of answer tokens for the mean.
    """
    inputs = {key: batch[key] for key in INPUTS}
    if edits_prompt:
        inputs["prompt_lengths"] = batch["prompt_lengths"]
    return _loss_of_labelled_columns(model, inputs, batch["labels"])


def answer_loss_on_prefixes(model: "nn.Module", batch: dict[str, torch.Tensor], reuse: "PrefixReuse") -> torch.Tensor:
    """`answer_loss` with the tokens before the first edited one taken from `reuse`: the same value and gradients.

    The batch is cut at one column, as far left as its longest suffix (edited tokens and answer) needs; what stands
    left of it in each row is frozen. Columns in which all rows are padded are left out, since `reuse` knows none.
    """
    batch = select_rows(batch, slice(None))
    mask_BT = batch["attention_mask"]
    width = int((mask_BT.sum(1) - batch["prompt_lengths"]).max()) + reuse.reach
    split = mask_BT.shape[1] - width
    if split <= 0:
        return answer_loss(model, batch, edits_prompt=True)
    inputs = {
        "input_ids": batch["input_ids"][:, split:],
        "attention_mask": mask_BT,
        "position_ids": batch["position_ids"][:, split:],
        "past_key_values": reuse.cache(batch["row_ids"].tolist(), mask_BT[:, :split].sum(1).tolist()),
        "prompt_lengths": batch["prompt_lengths"],
    }
    return _loss_of_labelled_columns(model, inputs, batch["labels"][:, split:])


def answer_loss_on_lower_layers(
    model: "nn.Module", batch: dict[str, torch.Tensor], reuse: "LowerLayerReuse"
) -> torch.Tensor:
    """`answer_loss` with the layers below the first edited one taken from `reuse`: the same value and gradients.

    Columns in which all rows are padded are left out, since `reuse` knows none.
    """
    batch = select_rows(batch, slice(None))
    with reuse.lower_layers_done(batch["row_ids"].tolist()):
        return answer_loss(model, batch, edits_prompt=True)


def _loss_of_labelled_columns(model: "nn.Module", inputs: dict, labels_BT: torch.Tensor) -> torch.Tensor:
    targets_BT = labels_BT[:, 1:]
    columns_K = (targets_BT != IGNORED).any(0).nonzero().squeeze(1)
    logits_BKV = logits_of(model, columns_K, **inputs, use_cache=False)
    targets = targets_BT[:, columns_K].flatten()
    return F.cross_entropy(logits_BKV.float().flatten(0, 1), targets, ignore_index=IGNORED, reduction="sum")
