"""Modules that a model reads the weights of without calling them: an adapter on them would act on nothing."""

import peft
import pytest
import torch
import transformers

import tiny
from heft.adapters.attach import attach
from heft.adapters.lora import lora_faults
from heft.adapters.lora_targets import adapted_names, unadaptable
from heft.adapters.uncalled import read_past
from heft.recipe.recipe import LoraSettings, LoraStage

IDS = torch.arange(3, 20)[None]
SIZES = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4}
STEPS = {f"backbone.layers.{layer}.mixer.dt_proj" for layer in (0, 1)}


def mamba(kind):
    config = getattr(transformers, f"{kind}Config")(**SIZES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("kind", ["Mamba", "FalconMamba"])
def test_modules_on_which_pefts_lora_has_no_effect_are_not_adapted(kind):
    model = mamba(kind)
    plain = logits(model)
    config = peft.LoraConfig(r=2, target_modules=["dt_proj"], init_lora_weights=False)
    assert torch.equal(logits(peft.get_peft_model(mamba(kind), config).eval()), plain)
    assert read_past(model) == STEPS <= unadaptable(model)
    (fault,) = lora_faults(model, LoraSettings(targets=["in_proj", "dt_proj"]))
    assert "LoRA cannot adapt mixer.dt_proj of this model" in fault
    attach(model, "a", LoraStage(method="lora", rank=2, init="pissa", steps=1))
    assert torch.allclose(logits(model), plain, atol=1e-4), "the start is no change"
    assert {name.rpartition(".")[2] for name in adapted_names(model, "a")} == {"in_proj", "x_proj"}


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_of_other_models_every_module_is_called(architecture):
    assert read_past(tiny.tiny_model(architecture)) == set()
