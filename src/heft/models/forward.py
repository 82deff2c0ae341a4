"""A forward pass for the logits of some columns, in any class of model, whatever its `forward` takes."""

import inspect

import torch
from torch import nn
from transformers import PreTrainedModel

from heft.reft.tracker import tracker_of

_OF_HEFT = ("prompt_lengths", "token_layout")
"""Taken out of the call by the hook of heft.reft.tracker before `forward` sees it."""


def takes_prompt_lengths(model: nn.Module) -> bool:
    """Whether the model carries an adapter with positions (ReFT's, or LoRA's of some tokens)."""
    return tracker_of(model) is not None


def attention_of(model: PreTrainedModel) -> str:
    """The attention implementation in use, such as "sdpa"; transformers has a public name only for setting it."""
    return model.config._attn_implementation


def logits_of(model: nn.Module, keep: int | torch.Tensor, **inputs) -> torch.Tensor:
    """Logits (B, K, V) of a causal language model.

    Inputs that the model has no use for are left out: `position_ids` where its class counts its own, `prompt_lengths`
    where no adapter has positions. A class that gives logits of all columns has them cut.

    Args:
        model: perhaps wrapped for distribution, or by PEFT.
        keep: how many of the last columns, or (K,) indices of columns of `input_ids`.
        inputs: of `forward`.
    """
    tokens = inputs["input_ids" if "input_ids" in inputs else "inputs_embeds"]
    width = tokens.shape[1]
    if isinstance(keep, int):  # as indices, whose result is contiguous: of a slice torch multiplies row by row
        keep = torch.arange(width - keep, width, device=tokens.device)
    call = {**inputs, "logits_to_keep": keep}
    if "prompt_lengths" in call and not takes_prompt_lengths(model):
        del call["prompt_lengths"]
    inner = model.get_base_model() if hasattr(model, "get_base_model") else getattr(model, "module", model)
    parameters = inspect.signature(inner.forward).parameters
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        call = {key: value for key, value in call.items() if key in parameters or key in _OF_HEFT}
    logits_BTV = model(**call).logits
    return logits_BTV if logits_BTV.shape[1] == len(keep) else logits_BTV[:, keep]
