"""Where a Trainer is between two steps: everything that its next step depends on, as tensors and plain values.

Both can be written without pickle (heft.run.checkpoints). Put back, they give the same steps to the bit on a CPU.
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Snapshot:
    """Plain values (what JSON holds) and tensors, on the CPU, by name."""

    values: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the parameters that require gradients, by name."""
    return {name: _copy(p) for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def restore_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Set the parameters of these names."""
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


def optimizer_state(optimizer: Optimizer) -> Snapshot:
    """An optimiser's state; parameters are counted as it does."""
    state = optimizer.state_dict()
    tensors, values = {}, {}
    for number, entries in state["state"].items():
        for key, value in entries.items():
            place = tensors if isinstance(value, torch.Tensor) else values
            place[f"{number}.{key}"] = _copy(value) if isinstance(value, torch.Tensor) else value
    return Snapshot({"values": values, "groups": state["param_groups"]}, tensors)


def restore_optimizer(optimizer: Optimizer, snapshot: Snapshot) -> None:
    """Set an optimiser of the same parameters to a state from `optimizer_state`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (snapshot.values["values"] | snapshot.tensors).items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": snapshot.values["groups"]})


def random_state() -> Snapshot:
    """Where all generators of random numbers are: Python's, numpy's, torch's on the CPU and on the CUDA device."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    tensors = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(keys.astype(np.int64))}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return Snapshot(
        {"python": [version, list(numbers), gauss], "numpy": [kind, int(position), int(has_gauss), float(cached)]},
        tensors,
    )


def restore_random_state(snapshot: Snapshot) -> None:
    """Set all generators to a state from `random_state`."""
    version, numbers, gauss = snapshot.values["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, position, has_gauss, cached = snapshot.values["numpy"]
    keys = snapshot.tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, cached))
    torch.set_rng_state(snapshot.tensors["torch"])
    if "cuda" in snapshot.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(snapshot.tensors["cuda"])


def together(**parts: Snapshot) -> Snapshot:
    """Several as one; `apart` gives them back."""
    return Snapshot(
        {name: part.values for name, part in parts.items()},
        {f"{name}/{key}": value for name, part in parts.items() for key, value in part.tensors.items()},
    )


def apart(snapshot: Snapshot) -> dict[str, Snapshot]:
    """The parts that `together` was given, by name."""
    return {
        name: Snapshot(
            values,
            {key.partition("/")[2]: t for key, t in snapshot.tensors.items() if key.partition("/")[0] == name},
        )
        for name, values in snapshot.values.items()
    }


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
