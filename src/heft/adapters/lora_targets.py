"""Which weights of a model LoRA can adapt, and which of them an adapter leaves out.

Beside linear modules these are the experts' weights of mixture-of-experts models, which transformers keep as parameters
of three dimensions (experts, rows, columns) and PEFT adapts by the parameter's name.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Iterable

import torch
from peft import LoraConfig, PeftConfig
from peft.tuners.lora import LoraLayer, LoraModel
from peft.utils.transformers_weight_conversion import (
    convert_peft_adapter_state_dict_for_transformers,
    convert_peft_config_for_transformers,
)
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heft.adapters.uncalled import uncalled
from heft.reft.sites import decoder_of

_IN_A_BLOCK = re.compile(r"\.\d+\.")
_NO_EXPERTS = (".lora_", ".reft", "conv", "norm", "A_log", "seg_embed")
"""Parts of the names of parameters of three dimensions that hold no matrices, or are an adapter's."""


def linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    """A model's own linear modules by their full names, as they are without adapters."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and ".lora_" not in name
    }


def linear_names(model: nn.Module) -> set[str]:
    """Full names of a model's linear modules, as they are without adapters."""
    return set(linear_modules(model))


def expert_names(model: nn.Module) -> set[str]:
    """Full names of parameters that hold the weights of several experts, as they are without adapters."""
    return {
        name.replace(".base_layer", "")
        for name, parameter in model.named_parameters()
        if parameter.dim() == 3 and parameter.is_floating_point() and _IN_A_BLOCK.search(name)
        if min(parameter.shape[1:]) > 1 and not any(part in name for part in _NO_EXPERTS)
    }


def experts_of_all_linear(model: PreTrainedModel) -> set[str]:
    """Full names of the experts' weights that PEFT adapts with `all-linear`, which it does in some kinds of models."""
    config = LoraConfig(target_modules="all-linear")
    convert_peft_config_for_transformers(config, model, None)
    adapted = config.target_parameters or ()
    return {name for name in expert_names(model) if any(matches(each, [name]) for each in adapted)}


def parameters_of(model: PreTrainedModel, config: PeftConfig) -> list[str]:
    """The parameters, such as experts' weights, that PEFT adapts for a configuration of LoRA, as it calls them."""
    config = copy.deepcopy(config)
    convert_peft_config_for_transformers(config, model, None)
    return sorted(config.target_parameters or ())


def is_in_layers(name: str, layers: str | list[int]) -> bool:
    """Whether PEFT takes a module, by its full name, for one of these layers."""
    number = re.match(r".*\.[^.]*\.(\d+)\.", name)
    return layers == "all" or (number is not None and int(number[1]) in layers)


def misplaced_by_peft(names: Iterable[str], layers: list[int]) -> list[str]:
    """Modules that PEFT takes for some of these layers and are not, or the other way round: blocks may have lists of
    modules within them, whose numbers come last in a name."""
    blocks = {name: _IN_A_BLOCK.search(name) for name in names}
    return sorted(
        name
        for name, found in blocks.items()
        if found is not None and (int(found[0].strip(".")) in layers) != is_in_layers(name, layers)
    )


def unadaptable(model: PreTrainedModel) -> set[str]:
    """Full names of linear modules that LoRA cannot adapt.

    Those that PEFT refuses for the model's type; those that are linear by their class only and give something else than
    rows times a weight (routers, which give a tuple, and products in groups); those whose weights PEFT would not read
    back, since their names are others in checkpoints of the model's type; and those whose weights the model reads
    without calling them.
    """
    tuner, config, modules = LoraModel.__new__(LoraModel), LoraConfig(), linear_modules(model)
    found = _lost_on_reading(model, config, set(modules)) | (uncalled(model).read & modules.keys())
    for name in modules.keys() - found:
        if _refused(tuner, config, model, name) or not _is_linear(modules[name]):
            found.add(name)
    return found


def not_of_all_linear(model: PreTrainedModel) -> set[str]:
    """Full names of linear modules that `all-linear` leaves out: those that LoRA cannot adapt, and those of towers for
    images or sound, on which it would act in no text."""
    return unadaptable(model) | uncalled(model).of_towers


def _lost_on_reading(model: PreTrainedModel, config: LoraConfig, names: set[str]) -> set[str]:
    """Which modules' LoRA weights PEFT renames when it reads them (see `set_peft_model_state_dict`)."""
    keys = {f"base_model.model.{name}.lora_A.weight": name for name in names}
    weights = {key: torch.empty(1, 1, device="meta") for key in keys}
    read = convert_peft_adapter_state_dict_for_transformers(model, config, weights, "default")
    return {name for key, name in keys.items() if key not in read}


def _refused(tuner: LoraModel, config: LoraConfig, model: nn.Module, name: str) -> bool:
    try:
        tuner._check_target_module_compatiblity(config, model, name.rpartition(".")[2])
    except ValueError:
        return True
    return False


@torch.no_grad()
def _is_linear(module: nn.Module) -> bool:
    if type(module).forward in (nn.Linear.forward, Conv1D.forward) or "bitsandbytes" in type(module).__module__:
        return True
    weight = module.weight
    try:
        output = module(torch.zeros(1, module.in_features, dtype=weight.dtype, device=weight.device))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return torch.is_tensor(output) and output.shape == (1, module.out_features)


def endings_of(names: set[str], among: set[str]) -> list[str]:
    """The fewest endings that match these names and no others among all."""
    found = set()
    for name in names:
        ending = _ending(name)
        found.add(ending if all(other in names for other in among if matches(ending, [other])) else name)
    return sorted(found)


def matches(entry: str, names: Iterable[str]) -> bool:
    """Whether one of the names is the entry, or ends in it after a dot."""
    return any(name == entry or name.endswith(f".{entry}") for name in names)


def shared_weights(model: nn.Module) -> set[str]:
    """Full names of linear modules whose weight is another linear module's too."""
    users = defaultdict(list)
    for name, module in linear_modules(model).items():
        users[id(module.weight)].append(name)
    return {name for names in users.values() if len(names) > 1 for name in names}


def _ending(name: str) -> str:
    """A name within its block, without the block's number: `self_attn.q_proj`."""
    return _IN_A_BLOCK.split(name, maxsplit=1)[-1]


def has_part(layer: LoraLayer, adapter: str) -> bool:
    """Whether a LoRA adapter updates a layer; that of an embedding has matrices by names of their own."""
    return adapter in layer.lora_A or adapter in layer.lora_embedding_A


def adapted_names(model: nn.Module, adapter: str) -> set[str]:
    """Full names of the modules, and of the experts' weights, that an attached LoRA adapter has a part of."""
    found = set()
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer) and has_part(layer, adapter):
            parameter = getattr(layer, "parameter_name", None)
            bare = name.replace(".base_layer", "")
            found.add(bare if parameter is None else f"{bare}.{parameter}")
    return found


def left_out(
    model: PreTrainedModel, adapter: str, excluded: Iterable[str] = (), layers: str | list[int] = "all"
) -> dict[str, int]:
    """Linear modules and experts' weights in these of the decoder's blocks that an attached adapter has no part of.

    Those whose names end in one of `excluded` are left out on purpose and do not count.

    Returns:
        Names within a block, and in how many blocks each is left out.
    """
    adapted = adapted_names(model, adapter)
    body = decoder_of(model)
    start = next(name for name, module in model.named_modules() if module is body)
    counts: dict[str, int] = defaultdict(int)
    for name in (linear_names(model) | expert_names(model)) - adapted:
        if (
            name.startswith(start)
            and _IN_A_BLOCK.search(name)
            and is_in_layers(name, layers)
            and not any(matches(entry, [name]) for entry in excluded)
        ):
            counts[_ending(name)] += 1
    return dict(sorted(counts.items()))
