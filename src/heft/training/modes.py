"""How a model computes while a stage trains: training mode, autocast, several processes."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import GradientAccumulationPlugin
from torch import nn
from transformers import PreTrainedModel

from heft.adapters.attach import adapter_modules, trained_adapters
from heft.recipe.training import TrainingSettings


def frozen_dropouts(model: PreTrainedModel) -> list[nn.Dropout]:
    """The dropout modules of adapters that do not train."""
    frozen = model.peft_config.keys() - trained_adapters(model)
    modules = (module for name in frozen for module in adapter_modules(model, name))
    return [module for module in modules if isinstance(module, nn.Dropout)]


def train_mode(model: nn.Module, dropouts_off: Iterable[nn.Dropout]) -> None:
    """Put the model in training mode, but for these modules: what is frozen computes as it will be used."""
    model.train()
    for dropout in dropouts_off:
        dropout.eval()


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Meanwhile torch's operations on CUDA give the same bits each time, where it has such a kernel; a CPU's always do.

    cuBLAS reads its workspace's setting when it starts, and without one torch says that products may differ.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # what is filled is never read, and filling takes time
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fills


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


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What requires gradients, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def make_accelerator(stage: TrainingSettings) -> Accelerator:
    """An Accelerator that wraps the model for several processes, and leaves everything else to the recipe."""
    ddp = DistributedDataParallelKwargs(
        find_unused_parameters=not stage.gradient_checkpointing,
        broadcast_buffers=False,  # they are constants, and processes may take unlike many forward passes
    )
    once = GradientAccumulationPlugin(num_steps=1)  # the loss is already divided by the step's answer tokens
    with patch.dict(os.environ, {"ACCELERATE_USE_FSDP": "false"}):  # heft.models.sharding does that itself
        accelerator = Accelerator(device_placement=False, kwargs_handlers=[ddp], gradient_accumulation_plugin=once)
    # the precision is the recipe's (bf16_forward), whatever accelerate is configured to or an earlier Accelerator had
    accelerator.native_amp, accelerator.scaler = False, None
    return accelerator
