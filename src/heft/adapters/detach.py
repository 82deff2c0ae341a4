"""Adapters taken off a model again, so that many can be tried on one base without loading it anew."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from heft.adapters.attach import activate
from heft.reft.layer import layers_of


@contextmanager
def gone_afterwards(model: PreTrainedModel) -> Iterator[None]:
    """Whatever LoRA and ReFT adapters are attached while this is open are gone when it closes."""
    before = list(getattr(model, "peft_config", ()))
    try:
        yield
    finally:
        detach(model, [name for name in getattr(model, "peft_config", ()) if name not in before])


def detach(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Take LoRA and ReFT adapters off: modules are what they were, and those of other adapters stay as they are.

    Adapters with trained embeddings are not meant: PEFT's wrapper of an embedding stays.
    """
    activate(model, [name for name in getattr(model, "peft_config", ()) if name not in names])
    for path, layer in layers_of(model).items():
        for name in set(names) & set(layer.positions):
            layer.delete_adapter(name)
        if not layer.positions:
            layer.detach(model.get_submodule(path.rpartition(".")[0]))
    lora = [(path, module) for path, module in model.named_modules() if isinstance(module, LoraLayer)]
    for path, module in lora:
        for name in names:
            module.delete_adapter(name)
        if ".base_layer" not in path and not module._all_available_adapter_names():  # else it is within one that goes
            parent, _, own = path.rpartition(".")
            setattr(model.get_submodule(parent), own, module.get_base_layer())
    for name in names:
        del model.peft_config[name]
