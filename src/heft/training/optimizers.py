"""The optimizer of a stage and its learning-rate schedule, from the stage's settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Adafactor, get_scheduler

from heft.recipe.training import DECAY, TrainingSettings


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


OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(torch.optim.AdamW, {"betas": (0.9, 0.999), "eps": 1e-8, "fused": True}, state_bytes=8),
    "adafactor": Optimizer(Adafactor, {"scale_parameter": False, "relative_step": False}),
    "sgd": Optimizer(torch.optim.SGD),
}
"""By the name that the setting `optimizer` has. Adafactor's factored states are too small to count."""

_UNDECAYED = (".rotation", ".bias")
"""Ends of the names of weights that weight decay leaves alone: rotations have no length, biases need no decay."""


def make_optimizer(parameters: Mapping[str, nn.Parameter], stage: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW, Adafactor or SGD over these weights, in groups by learning rate and weight decay.

    Args:
        parameters: the trained weights by their names in the model.
        stage: its settings; `reft_learning_rate`, where a joint stage has one, is that of ReFT's weights.
    """
    reft_rate = getattr(stage, "reft_learning_rate", None) or stage.learning_rate
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for is_reft in (False, True):  # the first group's rate is the one that is logged
        for name, parameter in parameters.items():
            if (".reft." in name) == is_reft:
                key = (reft_rate if is_reft else stage.learning_rate, not name.endswith(_UNDECAYED))
                groups.setdefault(key, []).append(parameter)
    settings = [
        {"params": members, "lr": rate, "weight_decay": stage.weight_decay if is_decayed else 0.0}
        for (rate, is_decayed), members in groups.items()
    ]
    chosen = OPTIMIZERS[stage.optimizer]
    return chosen.make(settings, lr=stage.learning_rate, **chosen.options)


def make_schedule(optimizer: torch.optim.Optimizer, stage: TrainingSettings, steps: int) -> LambdaLR:
    """Linear warmup, then the stage's schedule, over so many steps (transformers: `lr_scheduler_type`)."""
    name = "constant_with_warmup" if stage.schedule == "constant" else stage.schedule
    warmup, own = round(stage.warmup * steps), {}
    if name == "warmup_stable_decay":
        share = DECAY if stage.decay is None else stage.decay
        own = {"num_decay_steps": min(round(share * steps), steps - warmup), "decay_type": "linear"}
    return get_scheduler(name, optimizer, warmup, steps, own)
