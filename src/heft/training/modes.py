"""How a model computes while a stage trains. Each of these ends with the stage."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel

from heft.adapters.attach import adapter_modules, adapter_parameters


def frozen_dropouts(model: PreTrainedModel) -> list[nn.Dropout]:
    """The dropout modules of adapters that do not train."""
    frozen = [
        name
        for name in model.peft_config
        if not any(p.requires_grad for p in adapter_parameters(model, [name]).values())
    ]
    modules = (module for name in frozen for module in adapter_modules(model, name))
    return [module for module in modules if isinstance(module, nn.Dropout)]


def train_mode(model: nn.Module, dropouts_off: Iterable[nn.Dropout]) -> None:
    """Put the model in training mode, but for these modules: what is frozen computes as it will be used."""
    model.train()
    for dropout in dropouts_off:
        dropout.eval()


@contextmanager
def bf16_forward(model: nn.Module, is_on: bool) -> Iterator[None]:
    """Meanwhile the model's forward passes run under autocast to bfloat16, if that is on.

    Only those of the whole model: what is cached by running parts of it (heft.training.reuse) keeps its precision.
    """
    if not is_on:
        yield
        return
    before = model.__dict__.get("forward")
    model.forward = torch.autocast(next(model.parameters()).device.type, torch.bfloat16)(model.forward)
    try:
        yield
    finally:
        del model.forward
        if before is not None:
            model.forward = before
