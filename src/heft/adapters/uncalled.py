"""Linear modules whose weights a model reads without calling them (Falcon-Mamba's `dt_proj`): LoRA, which acts where a
module is called, would train them without any effect."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from heft.models.load import without_weights
from heft.reft.editable import runs_small_batch

_KNOWN = 64
"""Configurations of which it is remembered."""


def read_past(model: PreTrainedModel) -> frozenset[str]:
    """Full names of such modules, seen in one small forward pass without weights; none where that does not run."""
    return _read_past(_ByConfig(model))


class _ByConfig:
    """A model that is equal to others of its class and configuration."""

    def __init__(self, model: PreTrainedModel):
        self.model, self._key = model, (type(model), model.config.to_json_string(use_diff=False))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByConfig) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=_KNOWN)
def _read_past(asked: _ByConfig) -> frozenset[str]:
    model, asked.model = asked.model, None  # only its configuration is remembered
    try:
        skeleton = without_weights(model)
    except Exception:  # a class with code of its own may raise anything
        return frozenset()
    linear = {name: module for name, module in skeleton.named_modules() if isinstance(module, nn.Linear)}
    called: set[str] = set()
    for name, module in linear.items():
        module.register_forward_pre_hook(lambda _, args, name=name: called.add(name))
    reads = _Reads({id(module.weight): name for name, module in linear.items()})
    with reads:
        runs_small_batch(skeleton)
    return frozenset(reads.found - called)


class _Reads(TorchFunctionMode):
    """Notes which of some weights torch's functions are given."""

    def __init__(self, names: Mapping[int, str]):
        super().__init__()
        self._names, self.found = names, set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self._look((*args, *kwargs.values()))
        return function(*args, **kwargs)

    def _look(self, values: Iterable) -> None:
        for value in values:
            if isinstance(value, torch.Tensor) and id(value) in self._names:
                self.found.add(self._names[id(value)])
