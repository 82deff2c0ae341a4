"""The optimizer of a stage: its table, which weights decay, and at which learning rate they train."""

from typing import get_args

import pytest
import torch
from torch import nn

from heft.recipe.recipe import JointStage, LoraStage
from heft.recipe.training import TrainingSettings
from heft.training.optimizers import OPTIMIZERS, make_optimizer, make_schedule

NAMES = ["a.reft.s.rotation", "a.reft.s.weight", "a.reft.s.bias", "b.lora_A.s.weight", "b.lora_B.s.weight"]


def test_the_table_has_every_optimizer_that_a_recipe_can_name():
    assert set(OPTIMIZERS) == set(get_args(TrainingSettings.model_fields["optimizer"].annotation))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_keeps_as_many_bytes_as_the_table_says(name):
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = make_optimizer({"w": weight}, LoraStage(rank=1, steps=1, learning_rate=1e-3, optimizer=name))
    weight.square().sum().backward()
    optimizer.step()
    kept = sum(s.nbytes for s in optimizer.state[weight].values() if torch.is_tensor(s))
    assert kept / weight.numel() == pytest.approx(OPTIMIZERS[name].state_bytes, abs=0.2)


def groups(stage):
    """(learning rate, weight decay, names) of each group."""
    parameters = {name: nn.Parameter(torch.zeros(2, 2)) for name in NAMES}
    names = {id(parameter): name for name, parameter in parameters.items()}
    optimizer = make_optimizer(parameters, stage)
    return [(g["lr"], g["weight_decay"], [names[id(p)] for p in g["params"]]) for g in optimizer.param_groups]


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "sgd"])
def test_weights_decay_but_for_rotations_and_biases(optimizer):
    found = groups(LoraStage(method="lora", learning_rate=1e-3, weight_decay=0.1, optimizer=optimizer))
    assert found == [(1e-3, 0.1, [NAMES[3], NAMES[4], NAMES[1]]), (1e-3, 0.0, [NAMES[0], NAMES[2]])]


def test_reft_learning_rate_has_groups_behind_the_one_that_is_logged():
    joint = {"method": "joint", "lora": {"rank": 2}, "reft": {"rank": 2, "positions": "l2"}, "weight_decay": 0.1}
    found = groups(JointStage(**joint, learning_rate=1e-3, reft_learning_rate=1e-2))
    assert found == [(1e-3, 0.1, NAMES[3:]), (1e-2, 0.0, [NAMES[0], NAMES[2]]), (1e-2, 0.1, [NAMES[1]])]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [0, 0.5, 1, 0.5]),
        ("cosine", [0, 0.5, 1, 0.5]),
        ("constant", [0, 0.5, 1, 1]),
        ("warmup_stable_decay", [0, 0.5, 1, 1]),  # of four steps a fifth is one
    ],
)
def test_the_rate_warms_up_and_follows_the_schedule(schedule, rates):
    stage = LoraStage(method="lora", learning_rate=1.0, warmup=0.5, schedule=schedule, optimizer="sgd")
    optimizer = make_optimizer({"w": nn.Parameter(torch.zeros(1))}, stage)
    steps, found = make_schedule(optimizer, stage, 4), []
    for _ in rates:
        found.append(steps.get_last_lr()[0])
        optimizer.step()
        steps.step()
    assert found == pytest.approx(rates)


@pytest.mark.parametrize(
    ("warmup", "decay", "rates"),
    [
        (0.2, 0.5, [0, 0.5, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]),
        (0.0, None, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5]),
        (0.5, 0.5, [0, 0.2, 0.4, 0.6, 0.8, 1, 0.8, 0.6, 0.4, 0.2]),
    ],
)
def test_a_decay_is_linear_and_takes_its_share_of_the_steps(warmup, decay, rates):
    given = {"learning_rate": 1.0, "warmup": warmup, "schedule": "warmup_stable_decay", "decay": decay}
    optimizer = make_optimizer({"w": nn.Parameter(torch.zeros(1))}, LoraStage(**given, optimizer="sgd"))
    steps, found = make_schedule(optimizer, LoraStage(**given), 10), []
    for _ in rates:
        found.append(steps.get_last_lr()[0])
        optimizer.step()
        steps.step()
    assert found == pytest.approx(rates)
