"""Adapters taken off a model again."""

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from heft.adapters.attach import attach, finish
from heft.adapters.detach import gone_afterwards
from heft.builtin import tiny_llama
from heft.errors import HeftError
from heft.recipe.recipe import JointStage, LoraStage, ReftStage

IDS = torch.arange(2, 40)[None]
STAGES = {
    "lora": LoraStage(),
    "pissa": LoraStage(init="pissa"),
    "dora": LoraStage(dora=True),
    "reft": ReftStage(positions="l2"),
    "joint": JointStage(),
}


@pytest.fixture
def model():
    return tiny_llama().eval().requires_grad_(False)


@torch.no_grad()
def stirred(model, stage):
    """Attach a stage and give its weights other values, as training does; returns what the model then computes."""
    torch.manual_seed(0)
    attached = attach(model, stage.method, stage)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn_like(parameter))
    finish(model, attached)
    return model(IDS).logits


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_the_model_is_what_it_was_to_the_bit(model, stage):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(IDS).logits
    with gone_afterwards(model):
        assert not torch.equal(stirred(model, stage), logits)
    assert torch.equal(model(IDS).logits, logits)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(isinstance(module, BaseTunerLayer) for module in model.modules())
    assert not model.peft_config


@pytest.mark.parametrize("below", ["lora", "reft"])
@pytest.mark.parametrize("above", ["lora", "reft"])
def test_adapters_that_were_there_stay_as_they_are(model, below, above):
    finish(model, attach(model, "first", STAGES[below]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".first." in name:
                parameter.add_(0.1)
    logits = model(IDS).logits
    with gone_afterwards(model):
        assert not torch.equal(stirred(model, STAGES[above]), logits)
    assert torch.equal(model(IDS).logits, logits)
    assert list(model.peft_config) == ["first"]


def test_a_second_one_computes_what_it_does_on_a_fresh_model(model):
    with gone_afterwards(model):
        stirred(model, STAGES["joint"])
    with gone_afterwards(model):
        again = stirred(model, STAGES["lora"])
    fresh = tiny_llama().eval().requires_grad_(False)
    assert torch.equal(stirred(fresh, STAGES["lora"]), again)


def test_they_are_gone_after_an_error_too(model):
    logits = model(IDS).logits
    stages = [STAGES["lora"], ReftStage(rank=3000)]
    with pytest.raises(HeftError, match="3000"), gone_afterwards(model):
        [stirred(model, stage) for stage in stages]
    assert torch.equal(model(IDS).logits, logits)
