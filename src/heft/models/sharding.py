"""A model whose weights are shared out over the processes of a run (FSDP2): each holds a slice of every block.

The model itself stays whole, on the CPU. What trains and is evaluated is a copy of it that has its modules, hooks and
adapters, and in place of every block's parameters slices on the device, which torch's `fully_shard` puts together when
the block runs. Afterwards what trained is written back, so that everything else (attaching, saving, checkpoints) sees
plain parameters.

Embeddings are sharded with the decoder and an untied head by itself. A head that is tied to the embeddings is whole on
every device: the two run apart from each other, and one slice cannot be part of both.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from heft.reft.sites import block_names, decoder_of
from heft.runtime import distributed


def is_sharded(model: nn.Module) -> bool:
    """Whether a parameter of the model is a slice."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, put together where it is a slice; all processes have to ask for it at the same place."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sliced_like(values: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """The values as the parameter is: each process's slice of them, on its device, where that one is a slice.

    Every process has all values; none is sent.
    """
    if not isinstance(parameter, DTensor) or isinstance(values, DTensor):
        return values
    values = values.to(parameter.device)
    return distribute_tensor(values, parameter.device_mesh, parameter.placements, src_data_rank=None)


@contextmanager
def sharded_copy(model: PreTrainedModel, device: torch.device) -> Iterator[PreTrainedModel]:
    """A copy of the model that is sharded over all processes; at the end, what trains in it is written back.

    Not where an error ends it: one process may have met it alone, and writing back takes all of them.

    Args:
        model: whole, on the CPU, the same in every process; it is not to be changed meanwhile.
        device: this process's, such as cuda:1 or cpu.
    """
    kept = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    shards = copy.deepcopy(model, kept)
    _shard(shards, device)
    yield shards
    _write_back(dict(shards.named_parameters()), dict(model.named_parameters()))


def _shard(model: PreTrainedModel, device: torch.device) -> None:
    mesh = init_device_mesh(device.type, (distributed.count(),))
    decoder, head = decoder_of(model), model.get_output_embeddings()
    within = {id(parameter) for parameter in decoder.parameters()}
    for name in block_names(model):
        fully_shard(model.get_submodule(name), mesh=mesh, reshard_after_forward=True)
    fully_shard(decoder, mesh=mesh, reshard_after_forward=True)
    if head is not None:
        tied = {parameter for parameter in head.parameters() if id(parameter) in within}
        if len(tied) < len(list(head.parameters())):
            fully_shard(head, mesh=mesh, reshard_after_forward=True, ignored_params=tied)
    for module in model.modules():  # what is left: a tied head, buffers
        for key, parameter in module._parameters.items():
            if parameter is not None and not isinstance(parameter, DTensor) and parameter.device != device:
                module._parameters[key] = nn.Parameter(parameter.to(device), parameter.requires_grad)
        for key, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[key] = buffer.to(device)


@torch.no_grad()
def _write_back(shards: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in parameters.items():
        if shards[name].requires_grad:
            parameter.copy_(whole(shards[name].detach()))
