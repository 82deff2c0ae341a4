"""When a stage writes checkpoints, and that it resumes from each of them with the same numbers."""

import json

import pytest
import torch

from heft.adapters.attach import adapter_parameters, attach
from heft.builtin import TINY
from heft.data.encode import Encoder
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import LoraStage
from heft.recipe.training import CheckpointSettings
from heft.runtime.reporter import Reporter
from heft.tasks import load_examples
from heft.tasks.whereabouts import WhereaboutsSettings
from heft.training.checkpointing import CheckpointPlan, StageCheckpoint
from heft.training.snapshot import (
    copied,
    pack,
    random_state,
    restore_optimizer,
    restore_random_state,
    unpack,
)
from heft.training.stage import train_stage

LORA = {"method": "lora", "rank": 2, "targets": ["q_proj"], "dropout": 0.2, "batch_size": 5, "learning_rate": 1e-2}


class Losses(Reporter):
    def __init__(self):
        self.seen = []

    def metrics(self, values):
        self.seen.append(values)


def trained(settings, start=None, **stage):
    """A stage of 12 rows on the tiny model: its checkpoints by step, its metrics and its adapter."""
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    examples = load_examples(WhereaboutsSettings(people=2, moves=2, train_size=12, eval_size=1), "train")
    rows = Encoder(base.tokenizer, 512)(examples)
    stage = LoraStage(**{**LORA, "steps": 7, **stage})
    torch.manual_seed(0)
    attach(base.model, "s", stage)
    kept, losses = {}, Losses()
    plan = CheckpointPlan(settings, lambda state: kept.update({state.progress.step: state}), start)
    train_stage(base.model, "s", stage, rows, pad_id=0, seed=0, reporter=losses, plan=plan)
    return kept, losses.seen, {n: p.detach().clone() for n, p in adapter_parameters(base.model, ["s"]).items()}


def through_json(packed):
    """As files hold it: strict JSON, and tensors."""
    values, tensors = packed
    return json.loads(json.dumps(values, allow_nan=False)), tensors


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"every_steps": 3, "every_minutes": None}, [3, 6]),
        ({"every_steps": 1}, [1, 2, 3, 4, 5, 6]),  # not after the last step, when the trained stage is saved
        ({"every_minutes": None}, []),
        ({"every_minutes": 1e-9}, [1, 2, 3, 4, 5, 6]),
        ({}, []),  # five minutes have not gone by
    ],
)
def test_checkpoints_are_written_by_steps_and_by_the_clock(settings, steps):
    assert list(trained(CheckpointSettings(**settings))[0]) == steps


@pytest.mark.parametrize(
    "stage",
    [
        {"optimizer": "adafactor"},
        {"batch_size": 6, "micro_batch_size": 2},
        *(pytest.param(each, marks=pytest.mark.long) for each in ({}, {"optimizer": "sgd"})),
    ],
)
def test_resumed_at_any_step_it_has_the_same_losses_and_the_same_adapter(stage):
    stage |= {"holdout": 0.2, "evaluate_every": 2, "schedule": "cosine"}
    kept, whole, adapter = trained(CheckpointSettings(every_steps=1), **stage)
    for step, state in kept.items():
        start = StageCheckpoint.unpacked(*through_json(state.packed()))
        _, losses, again = trained(CheckpointSettings(every_minutes=None), start, **stage)
        assert losses == [values for values in whole if values["step"] > step]
        assert all(torch.equal(tensor, again[name]) for name, tensor in adapter.items())


def test_resumed_at_its_last_step_a_stage_ends_as_it_was_saved():
    kept, _, _ = trained(CheckpointSettings(every_steps=1))
    _, losses, again = trained(CheckpointSettings(every_minutes=None), kept[6], steps=6)
    assert not [values for values in losses if "loss" in values]
    weights = kept[6].weights
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert weights.keys() == again.keys()


def test_what_is_packed_is_unpacked_as_it_was():
    one, other = torch.zeros(2), torch.ones(1)
    tree = {"a": [1, {"x/y": one}, None], "b": {}, "c": {"d": "text", "e": [other, one]}}
    values, tensors = through_json(pack(tree))
    assert sorted(tensors) == ["a/1/x/y", "c/e/0", "c/e/1"]
    found = unpack(values, tensors)
    assert (found["a"][0], found["a"][2], found["b"], found["c"]["d"]) == (1, None, {}, "text")
    assert found["a"][1]["x/y"] is found["c"]["e"][1] is one
    assert found["c"]["e"][0] is other


def test_random_numbers_resume():
    import random

    import numpy as np

    def drawn():
        return random.random(), np.random.standard_normal(), torch.randn(1).item(), random.gauss(0, 1)

    np.random.standard_normal()  # leaves a second number waiting
    here = random_state()
    first = drawn()
    restore_random_state(here)
    assert drawn() == first


def test_an_optimizer_resumes():
    def stepped(optimizer, weight, times):
        for number in range(times):
            weight.grad = torch.full_like(weight, number + 1.0)
            optimizer.step()

    def begun():
        weight = torch.nn.Parameter(torch.ones(3))
        return weight, torch.optim.AdamW([weight], lr=0.1)

    weight, optimizer = begun()
    stepped(optimizer, weight, 3)
    state, there = copied(optimizer.state_dict()), weight.detach().clone()
    stepped(optimizer, weight, 2)
    other, fresh = begun()
    other.data.copy_(there)
    restore_optimizer(fresh, state)
    stepped(fresh, other, 2)
    assert torch.equal(weight, other)
