"""The optimizer of a stage and its learning-rate schedule, from the stage's settings."""

from collections.abc import Mapping

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import Adafactor, get_scheduler

from heft.recipe.training import TrainingSettings

_UNDECAYED = (".rotation", ".bias")
"""Ends of the names of weights that weight decay leaves alone: rotations have no length, biases need no decay."""


def make_optimizer(parameters: Mapping[str, torch.nn.Parameter], stage: TrainingSettings) -> Optimizer:
    """AdamW, Adafactor or SGD over these weights, in groups by learning rate and weight decay.

    Args:
        parameters: the trained weights by their names in the model.
        stage: its settings; `reft_learning_rate`, where a joint stage has one, is that of ReFT's weights.
    """
    reft_rate = getattr(stage, "reft_learning_rate", None) or stage.learning_rate
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for is_reft in (False, True):  # the first group's rate is the one that is logged
        for name, parameter in parameters.items():
            if (".reft." in name) == is_reft:
                key = (reft_rate if is_reft else stage.learning_rate, not name.endswith(_UNDECAYED))
                groups.setdefault(key, []).append(parameter)
    settings = [
        {"params": members, "lr": rate, "weight_decay": stage.weight_decay if is_decayed else 0.0}
        for (rate, is_decayed), members in groups.items()
    ]
    if stage.optimizer == "adafactor":
        return Adafactor(settings, lr=stage.learning_rate, scale_parameter=False, relative_step=False)
    if stage.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=stage.learning_rate)
    return torch.optim.AdamW(settings, lr=stage.learning_rate, fused=True)


def make_schedule(optimizer: Optimizer, stage: TrainingSettings, steps: int) -> LambdaLR:
    """Linear warmup, then the stage's schedule, over so many steps (transformers: `lr_scheduler_type`)."""
    name = "constant_with_warmup" if stage.schedule == "constant" else stage.schedule
    return get_scheduler(name, optimizer, round(stage.warmup * steps), steps)
