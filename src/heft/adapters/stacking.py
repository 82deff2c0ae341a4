"""`heft.stack`: a further adapter on a model that carries some."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from peft import PeftConfig, PeftModel
from peft.utils.other import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from heft.adapters.attach import activate, adapter_parameters, name_fault, train_only
from heft.adapters.directory import save_config, stored_config
from heft.adapters.loaded import origin_of, peft_model
from heft.adapters.safety import CONFIG, config_faults, is_folder_name, method_name
from heft.adapters.trainable_tokens import bias_fault
from heft.errors import HeftError
from heft.settings.words import in_one_line
from heft.storage.reading import read_json


def stack(model: PreTrainedModel | PeftModel, config: PeftConfig, adapter_name: str = "default") -> PeftModel:
    """Put a further adapter on a model that carries some: those are frozen and stay active, and the new one trains.

    Args:
        model: such as `heft.load` gives; any transformers model, or the `PeftModel` around one.
        config: of any PEFT method; LoRA, with positions or without, or ReFT on a model that `heft.load` gives.
        adapter_name: of the new adapter; on such a model also the name of its folder.

    Returns:
        A `PeftModel`, as trainers of other libraries take it. If the model is from `heft.load`, its `save_pretrained`
        writes an adapter directory.

    Raises:
        HeftError: the model carries an adapter of that name, a part of the model has it, or the model is from
            `heft.load` and could not be saved with it.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    before = list(getattr(base, "peft_config", {}))
    if adapter_name in before:
        raise HeftError(f"the model carries an adapter named {adapter_name!r}; give the new one another adapter_name")
    fault = name_fault(base, adapter_name)
    if fault is not None:
        raise HeftError(f"adapter_name is {adapter_name!r}: {fault}; give the new adapter another one")
    if origin_of(base) is not None:
        _require_storable(config, adapter_name)
    _require_tokens(base, config)
    wrapped = peft_model(base, config, adapter_name)
    beside = _trained_beside(base, config, [*before, adapter_name])
    activate(base, [*before, adapter_name])
    train_only(base, [adapter_name])
    for parameter in beside:
        parameter.requires_grad_(True)
    return wrapped.train(base.training)


def _require_tokens(model: PreTrainedModel, config: PeftConfig) -> None:
    fault = bias_fault(model) if getattr(config, "trainable_token_indices", None) else None
    if fault is not None:
        raise HeftError(fault.replace("trainable_tokens", "trainable_token_indices"))


def _trained_beside(model: nn.Module, config: PeftConfig, adapters: Sequence[str]) -> list[nn.Parameter]:
    """What PEFT lets train for the last of these adapters beside its layers: its `modules_to_save`, and the base's
    biases, which PEFT trains on where an earlier one did."""
    known = {id(parameter) for parameter in adapter_parameters(model, adapters).values()}
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            earlier = (copy for name, copy in module.modules_to_save.items() if name in adapters[:-1])
            known |= {id(parameter) for copy in earlier for parameter in copy.parameters()}
    biases = getattr(config, "bias", "none") != "none"
    return [
        parameter
        for key, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in known
        if biases or not key.endswith("bias") or ".modules_to_save." in key
    ]


def _require_storable(config: PeftConfig, name: str) -> None:
    """Require, before it is trained, that an adapter directory can hold an adapter."""
    if method_name(config) not in ("lora", "reft"):
        raise HeftError(
            f"a model from heft.load is saved as an adapter directory, which holds adapters of LoRA and ReFT; got"
            f" {config.peft_type.value}: put that on a base that transformers loads (PeftModel.from_pretrained takes"
            " each folder of the directory)"
        )
    if not is_folder_name(name):
        raise HeftError(
            f"adapter_name is {name!r}, and a model from heft.load is saved with a folder for each adapter: give at"
            " most 100 letters, digits, '_' and '-'"
        )
    stored = stored_config(config)
    if getattr(stored, "target_modules", ()) in (None, "all-linear"):
        stored.target_modules = ["linear"]  # which modules these are is known once it is attached
    with tempfile.TemporaryDirectory() as folder:
        save_config(Path(folder), stored)
        values = read_json(Path(folder) / CONFIG)
    faults = config_faults(values.pop("peft_type"), values)
    if faults:
        raise HeftError(
            f"a model from heft.load is saved as an adapter directory, which cannot hold this: {in_one_line(faults)}"
        )
