"""LoRA through PEFT: its configuration from a recipe, a check of its targets, and starts that change the base.

PiSSA and OLoRA begin by taking s·B₀A₀ out of the base weights, so the trained A and B alone mean nothing on the
untouched base. `ReversibleInit` undoes that after training.
"""

import difflib
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import sqrt
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, TaskType, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import cast_adapter_dtype, delete_adapter
from torch import nn
from transformers import PreTrainedModel

from heft.adapters.lora_targets import (
    endings_of,
    expert_names,
    experts_of_all_linear,
    is_in_layers,
    linear_modules,
    linear_names,
    matches,
    misplaced_by_peft,
    not_of_all_linear,
    unadaptable,
)
from heft.adapters.patterns import first_match
from heft.adapters.starts import changes_base, dora_faults, expert_faults, start_faults
from heft.alora import ActivatedLoraConfig
from heft.alora.placeable import misplaced
from heft.recipe.recipe import LoraSettings


def lora_config(model: PreTrainedModel, settings: LoraSettings, tokens: Sequence[int] = ()) -> LoraConfig:
    """PEFT's configuration for the recipe's settings on that model; `tokens` are ids of the trainable ones."""
    targets = settings.targets
    exclude = [entry for entry in settings.exclude if matches(entry, linear_names(model))]
    parameters = None
    if targets == "all-linear":
        without = not_of_all_linear(model)
        exclude += endings_of(without, linear_names(model))
        if settings.layers != "all":  # PEFT takes layers with a list of names only
            within = (name for name in linear_names(model) - without if re.search(r"\.\d+\.", name))
            targets = sorted({name.rpartition(".")[2] for name in within})
    else:
        parameters = _expert_targets(model, settings) or None
        targets = [target for target in targets if matches(target, linear_names(model))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA with rank_pattern")
        make = LoraConfig
        if settings.positions != "all":
            make = partial(ActivatedLoraConfig, positions=settings.positions)
        return make(
            task_type=TaskType.CAUSAL_LM,
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets,
            target_parameters=parameters,
            exclude_modules=exclude or None,
            layers_to_transform=None if settings.layers == "all" else settings.layers,
            use_rslora=settings.rslora,
            use_dora=settings.dora,
            init_lora_weights=True if settings.init == "default" else settings.init,
            rank_pattern=dict(settings.rank_pattern),
            alpha_pattern=dict(settings.alpha_pattern),
            trainable_token_indices=list(tokens) or None,
        )


def _expert_targets(model: PreTrainedModel, settings: LoraSettings) -> list[str]:
    """The experts' weights among the targets: by the targets' own names, or by full ones where `layers` or `exclude`
    leave some out, since PEFT knows neither of parameters."""
    named = {name for name in expert_names(model) if any(matches(target, [name]) for target in settings.targets)}
    wanted = {name for name in _targeted(model, settings, named) if is_in_layers(name, settings.layers)}
    if wanted == named:
        return [target for target in settings.targets if matches(target, named)]
    return sorted(wanted)


def lora_faults(model: PreTrainedModel, settings: LoraSettings) -> list[str]:
    """What the settings name that the model does not have, each with the nearest names there are."""
    names = linear_names(model) | expert_names(model)
    endings = sorted({name.rpartition(".")[2] for name in names})
    named = {
        "targets": [] if settings.targets == "all-linear" else settings.targets,
        "exclude": settings.exclude,
        "rank_pattern": list(settings.rank_pattern),
        "alpha_pattern": list(settings.alpha_pattern),
    }
    faults, as_a_whole = [], set()
    if settings.targets == "all-linear" and settings.exclude:
        as_a_whole = experts_of_all_linear(model)
    for field, entries in named.items():
        for entry in entries:
            if not matches(entry, names):
                close = difflib.get_close_matches(entry, endings, n=3) or endings
                faults.append(
                    f"{field}: {entry!r} matches no linear module of this model; there are: {', '.join(close)}"
                )
            elif field == "exclude" and matches(entry, as_a_whole):
                faults.append(
                    f"exclude: {entry!r} is of experts' weights, which PEFT adapts with all-linear in this model,"
                    " whatever is excluded; name the modules that are adapted in targets"
                )
            elif field == "targets":
                cannot = {name for name in unadaptable(model) if matches(entry, [name])}
                cannot -= {name for name in cannot if any(matches(each, [name]) for each in settings.exclude)}
                if cannot:
                    shown = ", ".join(endings_of(cannot, linear_names(model)))
                    faults.append(f"{field}: LoRA cannot adapt {shown} of this model ({entry!r}); name it in exclude")
    faults += _unused_patterns(model, settings, names) + _tied_head(model, settings, names)
    faults += _unplaceable(model, settings, names) if settings.positions != "all" else []
    faults += expert_faults(settings, _adapted_experts(model, settings, names))
    layers = model.config.get_text_config().num_hidden_layers
    if settings.layers != "all" and max(settings.layers) >= layers:
        faults.append(f"layers: {max(settings.layers)} does not exist; this model has layers 0 to {layers - 1}")
    others = [] if settings.layers == "all" else misplaced_by_peft(_targeted(model, settings, names), settings.layers)
    if others:
        faults.append(
            f"layers: PEFT takes the last number in {others[0]} for that of its layer, so it would adapt other modules;"
            " name that one in exclude, or use layers: all, with modules by their layer in targets (layers.0.…)"
        )
    modules = _adapted_modules(model, settings, names)
    return faults + start_faults(model, settings, modules) + dora_faults(settings, modules)


def _targeted(model: PreTrainedModel, settings: LoraSettings, names: set[str]) -> set[str]:
    """Which of the linear modules and experts the settings adapt, layers aside."""
    if settings.targets == "all-linear":
        found = names - _names_of_head(model)
    else:
        found = {name for name in names if any(matches(target, [name]) for target in settings.targets)}
    return {name for name in found if not any(matches(entry, [name]) for entry in settings.exclude)}


def _adapted_modules(model: PreTrainedModel, settings: LoraSettings, names: set[str]) -> dict[str, nn.Module]:
    """The linear modules that the settings adapt."""
    targeted = {name for name in _targeted(model, settings, names) if is_in_layers(name, settings.layers)}
    if settings.targets == "all-linear":
        targeted -= not_of_all_linear(model)
    return {name: module for name, module in linear_modules(model).items() if name in targeted}


def _adapted_experts(model: PreTrainedModel, settings: LoraSettings, names: set[str]) -> set[str]:
    """The experts' weights that the settings adapt."""
    if settings.targets == "all-linear":
        return experts_of_all_linear(model)
    return {
        name for name in _targeted(model, settings, names) & expert_names(model) if is_in_layers(name, settings.layers)
    }


def _unused_patterns(model: PreTrainedModel, settings: LoraSettings, names: set[str]) -> list[str]:
    targeted, faults = _targeted(model, settings, names), []
    for field in ("rank_pattern", "alpha_pattern"):
        entries = getattr(settings, field)
        taken = {name: first_match(entries, name) for name in targeted}
        for entry in entries:
            own = sorted(name for name in targeted if matches(entry, [name]))
            if not own and matches(entry, names):
                text = "matches no module that is adapted, so it changes nothing; add it to targets, or remove it"
                faults.append(f"{field}: {entry!r} {text}")
            elif own and entry not in taken.values():
                text = f"changes nothing, since {taken[own[0]]!r} before it matches the same modules; put first the one"
                text += " that matches fewer, or remove one"
                faults.append(f"{field}: {entry!r} {text}")
    return faults


def _tied_head(model: PreTrainedModel, settings: LoraSettings, names: set[str]) -> list[str]:
    if not has_tied_head(model):
        return []
    return [
        f"targets: {name!r} is the output head, which shares its weights with the input embedding: its update could not"
        " be merged without changing the embedding too; leave it out (trainable_tokens trains single tokens in both)"
        for name in _targeted(model, settings, names) & _names_of_head(model)
    ]


def _unplaceable(model: PreTrainedModel, settings: LoraSettings, names: set[str]) -> list[str]:
    return [
        f"targets: with positions {settings.positions} LoRA cannot adapt {name}: {reason}; leave it out, or use"
        " positions: all"
        for name, reason in sorted(without_tokens(model, settings, names).items())
    ]


def without_tokens(model: PreTrainedModel, settings: LoraSettings, names: set[str] | None = None) -> dict[str, str]:
    """Adapted modules whose rows belong to no token that could be told, so that LoRA cannot act on some tokens only
    there, each with the reason in words.

    `names` are those of the model's linear modules and experts, where they are known.
    """
    names = linear_names(model) | expert_names(model) if names is None else names
    targeted, experts = _targeted(model, settings, names), expert_names(model)
    if settings.targets == "all-linear":
        targeted -= experts | not_of_all_linear(model)
    reasons = dict.fromkeys(targeted & experts, "it holds weights of experts, which see tokens sorted by expert")
    reasons |= dict.fromkeys(targeted & _names_of_head(model), "the output head sees the scored columns only")
    return reasons | misplaced(model, targeted - reasons.keys())


def has_tied_head(model: PreTrainedModel) -> bool:
    """Whether the output head shares its weights with the input embedding."""
    head = model.get_output_embeddings()
    return head is not None and _is_tied(model, head)


def _names_of_head(model: PreTrainedModel) -> set[str]:
    head = model.get_output_embeddings()
    return {name for name, module in model.named_modules() if module is head}


def _is_tied(model: PreTrainedModel, head: nn.Module) -> bool:
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:  # a model that embeds in a way of its own
        return False
    declared = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    return declared or getattr(head, "weight", None) is getattr(embedding, "weight", 0)


def inject_quietly(model: PreTrainedModel, name: str, config: PeftConfig) -> None:
    """PEFT's injection, in float32 over any base, without PEFT's warnings of a second adapter and of its own patterns.

    (`get_peft_model` casts as much; injection alone gives LoRA the base's dtype, in which small steps would be lost.)
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        warnings.filterwarnings("ignore", message=r"The following \w+_pattern keys did not match .*_proj")  # PEFT's own
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False but the target module is `Conv1D`")
        inject_adapter_in_model(config, model, adapter_name=name)
    cast_adapter_dtype(model, name)


class ReversibleInit:
    """Undoes a start that changed the base weights.

    Made before the adapter is injected; `injected` follows, and `undo` after training: the base gets its own
    weights back, to the bit, and W₀ − sB₀A₀ + sBA = W₀ + s[B, −B₀][A; A₀] becomes a plain LoRA of twice the rank.
    """

    def __init__(self, model: PreTrainedModel):
        modules = linear_modules(model)
        self._weights = {name: module.weight.detach().cpu().clone() for name, module in modules.items()}
        self._factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def injected(self, model: PreTrainedModel, adapter: str) -> None:
        """Copy the factors that the adapter starts from, and only the base weights that it changed."""
        for name, layer in _layers_with(model, adapter).items():
            self._factors[name] = _factors(layer, adapter)
        self._weights = {name: self._weights[name] for name in self._factors}

    @torch.no_grad()
    def undo(self, model: PreTrainedModel, adapter: str) -> None:
        """Replace the trained adapter by the plain one that has the same effect on the untouched base."""
        config: LoraConfig = model.peft_config.pop(adapter)
        trained = {name: _factors(layer, adapter) for name, layer in _layers_with(model, adapter).items()}
        for name, weight in self._weights.items():
            model.get_submodule(name).get_base_layer().weight.copy_(weight)
        delete_adapter(model, adapter, prefix="lora_", layer_cls=LoraLayer)
        inject_quietly(model, adapter, _doubled_config(config))
        for name, layer in _layers_with(model, adapter).items():
            (down, up), (down_0, up_0) = trained[name], self._factors[name]
            layer.lora_A[adapter].weight.copy_(torch.cat([down, down_0]))
            layer.lora_B[adapter].weight.copy_(torch.cat([up, -up_0], dim=1))


def plain_settings(settings: LoraSettings, finished: bool) -> LoraSettings:
    """The settings whose start needs no base weights, of an adapter with the same ranks and scale; with ranks doubled
    once `undo` ran."""
    update: dict = {"init": "default"}
    if finished and changes_base(settings):
        update |= _doubled(
            settings.rank, settings.rank_pattern, settings.alpha, settings.alpha_pattern, settings.rslora
        )
    return settings.model_copy(update=update)


def _doubled(
    rank: int, rank_pattern: Mapping[str, int], alpha: float, alpha_pattern: Mapping[str, float], rslora: bool
) -> dict[str, Any]:
    """What an adapter of twice the rank and the same scale has, by the names of `LoraSettings`."""
    grow = sqrt(2) if rslora else 2
    return {
        "rank": 2 * rank,
        "rank_pattern": {key: 2 * each for key, each in rank_pattern.items()},
        "alpha": grow * alpha,
        "alpha_pattern": {key: grow * each for key, each in alpha_pattern.items()},
    }


def _doubled_config(config: LoraConfig) -> LoraConfig:
    own = (config.r, config.rank_pattern, config.lora_alpha, config.alpha_pattern, config.use_rslora)
    found = _doubled(*own)
    scale = {"lora_alpha": found.pop("alpha"), "r": found.pop("rank")}
    return replace(config, init_lora_weights=True, **scale, **found)


def _layers_with(model: nn.Module, adapter: str) -> dict[str, LoraLayer]:
    return {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer) and adapter in m.lora_A}


def _factors(layer: LoraLayer, adapter: str) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.lora_A[adapter].weight.detach().clone(), layer.lora_B[adapter].weight.detach().clone()
