"""Starts of LoRA (`init`, `dora`) that a model has no place for, found out before anything is trained."""

from collections.abc import Collection, Mapping

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heft.adapters.lora_targets import shared_weights
from heft.adapters.patterns import first_match
from heft.recipe.recipe import INITS_OF_WEIGHTS, LoraSettings
from heft.text.listing import first_of

_MOST_SHOWN = 3


def changes_base(settings: LoraSettings) -> bool:
    """Whether the settings' start changes the base weights."""
    return settings.init.startswith(INITS_OF_WEIGHTS)


def start_faults(model: PreTrainedModel, settings: LoraSettings, modules: Mapping[str, nn.Module]) -> list[str]:
    """Why a start that changes base weights cannot be made; `modules` are those that are adapted, by their names."""
    if not changes_base(settings):
        return []
    faults = []
    shared = shared_weights(model)
    if shared:
        faults.append(
            f"init: {settings.init} changes base weights, and in this model several modules share some"
            f" ({first_of(sorted(shared), _MOST_SHOWN)}); use init: default"
        )
    if not all(weight.is_floating_point() for weight in model.parameters()):
        faults.append(
            f"init: {settings.init} needs unquantized weights, and this model's are quantized; use init: default"
        )
        return faults
    if model.dtype not in (torch.float32, torch.float64):
        faults.append(
            f"init: {settings.init} takes its start out of the base's weights, and what is left would be rounded to"
            f" {str(model.dtype).removeprefix('torch.')}; set model.dtype: float32, or use init: default"
        )
    return faults + _too_large(settings, modules) + _transposed(settings, modules)


def dora_faults(settings: LoraSettings, modules: Mapping[str, nn.Module]) -> list[str]:
    """Weights that DoRA cannot divide by their length, in each output, since it is 0; the gradient would be NaN.

    Weights that are not loaded, and quantized ones, are not looked at.
    """
    if not settings.dora:
        return []
    weights = {name: module.weight for name, module in modules.items()}
    empty = [
        name
        for name, weight in weights.items()
        if weight.is_floating_point() and not weight.is_meta
        if not weight.detach().any(dim=0 if isinstance(modules[name], Conv1D) else 1).all()
    ]
    if not empty:
        return []
    shown = first_of(sorted(empty), _MOST_SHOWN)
    return [
        f"dora: true divides the weights of each output by their length, which is 0 in {shown} (outputs whose weights"
        " are all 0); name these modules in exclude, or use dora: false"
    ]


def _too_large(settings: LoraSettings, modules: Mapping[str, nn.Module]) -> list[str]:
    """The start is made of as many of a weight's own directions as the rank is, and a weight has only so many."""
    found = {}
    for name, module in modules.items():
        pattern = first_match(settings.rank_pattern, name)
        rank = settings.rank if pattern is None else settings.rank_pattern[pattern]
        if rank > min(module.weight.shape):
            found[name] = f"{name} has {min(module.weight.shape)} and rank {rank}"
    if not found:
        return []
    return [
        f"init: {settings.init} starts from as many directions of a weight as the rank is, at most its smaller size:"
        f" {first_of(sorted(found.values()), _MOST_SHOWN)}; lower rank (for some modules alone in rank_pattern), or use"
        " init: default"
    ]


def _transposed(settings: LoraSettings, modules: Mapping[str, nn.Module]) -> list[str]:
    conv = sorted(name for name, module in modules.items() if isinstance(module, Conv1D))
    if settings.init != "olora" or not conv:
        return []
    return [
        f"init: olora, as PEFT makes it, takes weights of Conv1D modules for transposed ones"
        f" ({first_of(conv, _MOST_SHOWN)}); use init: pissa or default"
    ]


def expert_faults(settings: LoraSettings, experts: Collection[str]) -> list[str]:
    """What PEFT does not do with these weights of experts, which the settings adapt."""
    unsupported = []
    if settings.dropout:
        unsupported.append(f"dropout: {settings.dropout}")
    if settings.dora:
        unsupported.append("dora: true")
    if settings.init not in ("default", "gaussian"):
        unsupported.append(f"init: {settings.init}")
    if not experts or not unsupported:
        return []
    how = "name the modules that are adapted" if settings.targets == "all-linear" else "leave them out"
    return [
        f"targets: PEFT adapts experts' weights ({first_of(sorted(experts), _MOST_SHOWN)}) by plain LoRA only; got"
        f" {', '.join(unsupported)}: remove that, or {how} in targets"
    ]
