"""Linear modules that a model does not call: LoRA, which acts where a module is called, would have no effect on them.

Those whose weights it reads past them (Falcon-Mamba's `dt_proj`), and those of towers for images or sound (Gemma 3), of
which a text runs nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from heft.models.load import without_weights
from heft.reft.editable import runs_small_batch
from heft.reft.sites import decoder_of

_KNOWN = 64
"""Configurations of which it is remembered."""


@dataclass(frozen=True)
class Uncalled:
    """Full names of linear modules.

    Attributes:
        read: whose weights are read without a call.
        of_towers: outside of the decoder, which are neither called nor read.
    """

    read: frozenset[str] = frozenset()
    of_towers: frozenset[str] = frozenset()


def uncalled(model: PreTrainedModel) -> Uncalled:
    """The modules that a text does not call, seen in one small forward pass without weights; none where it fails."""
    return _uncalled(_ByConfig(model))


class _ByConfig:
    """A model that is equal to others of its class and configuration."""

    def __init__(self, model: PreTrainedModel):
        self.model, self._key = model, (type(model), model.config.to_json_string(use_diff=False))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByConfig) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=_KNOWN)
def _uncalled(asked: _ByConfig) -> Uncalled:
    model, asked.model = asked.model, None  # only its configuration is remembered
    try:
        skeleton = without_weights(model)
    except Exception:  # a class with code of its own may raise anything
        return Uncalled()
    linear = {name: module for name, module in skeleton.named_modules() if isinstance(module, nn.Linear)}
    called: set[str] = set()
    for name, module in linear.items():
        module.register_forward_pre_hook(lambda _, args, name=name: called.add(name))
    reads = _Reads({id(module.weight): name for name, module in linear.items()})
    with reads:
        has_run = runs_small_batch(skeleton)
    read = reads.found - called
    of_towers = linear.keys() - called - read - _names_in_decoder(skeleton) if has_run else ()
    return Uncalled(frozenset(read), frozenset(of_towers))


def _names_in_decoder(model: PreTrainedModel) -> set[str]:
    own = {id(module) for module in decoder_of(model).modules()}
    return {name for name, module in model.named_modules() if id(module) in own}


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
