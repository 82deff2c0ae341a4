"""Biases for linear layers that have none, where the model's class has a setting for it: so that it loads them."""

import copy
import re
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

FLAGS = ("attention_bias", "mlp_bias", "attention_out_bias", "out_proj_bias", "use_bias", "bias", "add_bias_linear")
"""Settings of transformers' configurations that give linear layers biases."""


def why_no_bias(model: PreTrainedModel, linears: Sequence[str], name: str) -> str | None:
    """Why linear layers cannot have biases that the model's class loads, in words; None where they can.

    `name` is the adapter that needs them.
    """
    reachable = set().union(*_added_by_setting(model).values()) if linears else set()
    missing = [linear for linear in linears if f"{linear}.bias" not in reachable]
    if not missing:
        return None
    return (
        f"{name} adds a constant to the output of {missing[0]}, for which it needs a bias, and {type(model).__name__}"
        " has no setting that gives it one"
    )


def give_biases(model: PreTrainedModel, linears: Sequence[str]) -> None:
    """Switch on the settings that give linear layers a bias; all layers that these concern get one of zeros."""
    for flag, added in _added_by_setting(model).items() if linears else ():
        if not any(f"{linear}.bias" in added for linear in linears):
            continue
        setattr(model.config.get_text_config(), flag, True)
        for name in added:
            module = model.get_submodule(name.removesuffix(".bias"))
            if module.bias is None:
                zeros = module.weight.new_zeros(module.weight.shape[0])
                module.bias = nn.Parameter(zeros, requires_grad=False)


def _added_by_setting(model: PreTrainedModel) -> dict[str, set[str]]:
    """The biases that each setting would add, for settings that are off and add nothing else."""
    own, config, found = _names(model), model.config.get_text_config(), {}
    for flag in FLAGS:
        if getattr(config, flag, None) is False:
            added = _names(_built_with(model, flag)) - own
            if added and all(name.endswith(".bias") for name in added):
                found[flag] = added
    return found


def _built_with(model: PreTrainedModel, flag: str) -> PreTrainedModel:
    """The model's modules, without weights, with a setting switched on."""
    config = copy.deepcopy(model.config)
    setattr(config.get_text_config(), flag, True)
    with torch.device("meta"):
        return type(model)(config)


def _names(model: nn.Module) -> set[str]:
    """Names of the model's own parameters, as they are without adapters; of adapters on it there can be more."""
    return {re.sub(r"\.(token_adapter|base_layer)\b", "", name) for name, _ in model.named_parameters()}
