"""The optimizers by name: how each is made, and how much state it keeps per parameter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.optimization import Adafactor


@dataclass(frozen=True)
class Optimizer:
    """One optimizer.

    Attributes:
        make: its class.
        options: what it is made with, beside the learning rate and the weight decay.
        state_bytes: bytes of state per float32 parameter.
    """

    make: Callable[..., torch.optim.Optimizer]
    options: Mapping[str, Any] = field(default_factory=dict)
    state_bytes: int = 0

    def __call__(self, groups: Sequence[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
        """Make it for groups of parameters, each with a `weight_decay` and perhaps an `lr` of its own."""
        return self.make(groups, lr=learning_rate, **self.options)


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(torch.optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-8, "fused": True}, state_bytes=8),
    "adafactor": Optimizer(Adafactor, {"scale_parameter": False, "relative_step": False}),
    "sgd": Optimizer(torch.optim.SGD),
}
"""By the name that the setting `optimizer` has. Adafactor's factored states are too small to count."""
