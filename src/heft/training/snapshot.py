"""The state that a training step depends on, as plain values and tensors: copied, restored, and packed for a file.

Restored, it gives the same steps to the bit on a CPU. Nothing of it needs pickle (see heft.run.checkpoints).
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from heft.models.sharding import sliced_like, whole

_TENSOR = "tensor in the file"
"""Key of the mapping that stands for a tensor among packed values."""


def pack(tree: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Nested mappings and lists as plain values, which JSON can hold, and the tensors taken out of them, by name."""
    tensors: dict[str, torch.Tensor] = {}

    def values(node: Any, path: str) -> Any:
        if isinstance(node, torch.Tensor):
            tensors[path] = node
            return {_TENSOR: path}
        if isinstance(node, dict):
            return {str(key): values(item, f"{path}/{key}" if path else str(key)) for key, item in node.items()}
        if isinstance(node, list | tuple):
            return [values(item, f"{path}/{index}") for index, item in enumerate(node)]
        return node

    return values(tree, ""), tensors


def unpack(values: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `pack` was given; tuples are lists, and keys are text."""
    if isinstance(values, dict):
        if _TENSOR in values:
            return tensors[values[_TENSOR]]
        return {key: unpack(item, tensors) for key, item in values.items()}
    return [unpack(item, tensors) for item in values] if isinstance(values, list) else values


def copied(tree: Any) -> Any:
    """Nested mappings with copies of their tensors, whole and on the CPU."""
    if isinstance(tree, torch.Tensor):
        return whole(tree.detach()).to("cpu", copy=True).contiguous()
    return {key: copied(item) for key, item in tree.items()} if isinstance(tree, dict) else tree


@torch.no_grad()
def restore_weights(parameters: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Set parameters to the values of the same names, which are whole."""
    for name, value in weights.items():
        parameters[name].copy_(sliced_like(value, parameters[name]))


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Set an optimizer of the same parameters to what its `state_dict` was, whole and perhaps packed since."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def sliced(value: Any, parameter: torch.Tensor) -> Any:
        is_like_it = isinstance(value, torch.Tensor) and value.shape == parameter.shape
        return sliced_like(value, parameter) if is_like_it else value

    entries = {
        int(number): {key: sliced(value, parameters[int(number)]) for key, value in entry.items()}
        for number, entry in state["state"].items()
    }
    optimizer.load_state_dict({"state": entries, "param_groups": state["param_groups"]})


def random_state() -> dict[str, Any]:
    """The state of all generators of random numbers: Python's, numpy's, torch's on the CPU and, if in use, on CUDA."""
    of_numpy = np.random.get_state(legacy=False)
    of_numpy["state"]["key"] = of_numpy["state"]["key"].tolist()
    cuda = {"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {}
    return {"python": random.getstate(), "numpy": of_numpy, "torch": torch.get_rng_state(), **cuda}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set all generators to a state from `random_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
