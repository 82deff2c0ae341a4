"""LoRA added into the base's weights: in float32, rounded once to the weights' own type."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from heft.adapters.detach import detach
from heft.errors import HeftError
from heft.text.listing import first_of


@torch.no_grad()
def merge_lora(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Merge these LoRA adapters and take them off; other adapters stay as they are.

    Raises:
        HeftError: a weight is another module's too, which would change with it; nothing is merged.
    """
    layers = {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}
    layers = {
        path: each for path, each in layers.items() if set(names).intersection(each._all_available_adapter_names())
    }
    _require_own_weights(model, layers)
    for layer in layers.values():
        own = [name for name in names if name in layer._all_available_adapter_names()]
        with in_float32(layer.get_base_layer()):
            layer.merge(adapter_names=own)
    detach(model, list(names))


@contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """A module's own parameters in float32 while this is open; afterwards they are rounded to what they were."""
    own = {key: p.dtype for key, p in module.named_parameters(recurse=False) if p.is_floating_point()}
    for key in own:
        parameter = getattr(module, key)
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    try:
        yield
    finally:
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(own[key] if key in own else own["weight"])  # a bias may be new


def _require_own_weights(model: nn.Module, layers: dict[str, LoraLayer]) -> None:
    users: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), set()).add(id(module))
    bases = {path: layer.get_base_layer() for path, layer in layers.items()}
    shared = [p for p, base in bases.items() if any(len(users[id(w)]) > 1 for w in base.parameters(recurse=False))]
    if shared:
        raise HeftError(
            f"cannot be merged: the weights of {first_of(shared, 3)} are another module's too, which would change with"
            " them; use --to peft"
        )
