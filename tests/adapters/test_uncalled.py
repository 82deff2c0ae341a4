"""Modules that a model does not call for a text: an adapter on them would act on nothing."""

import peft
import pytest
import torch
import transformers

import tiny
from heft.adapters.attach import adapter_parameters, attach
from heft.adapters.directory import save_adapter
from heft.adapters.lora import lora_faults
from heft.adapters.lora_targets import adapted_names, linear_names, unadaptable
from heft.adapters.uncalled import Uncalled, uncalled
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
    assert uncalled(model) == Uncalled(read=STEPS)
    assert unadaptable(model) >= STEPS
    (fault,) = lora_faults(model, LoraSettings(targets=["in_proj", "dt_proj"]))
    assert "LoRA cannot adapt mixer.dt_proj of this model" in fault
    attach(model, "a", LoraStage(method="lora", rank=2, init="pissa", steps=1))
    assert torch.allclose(logits(model), plain, atol=1e-4), "the start is no change"
    assert {name.rpartition(".")[2] for name in adapted_names(model, "a")} == {"in_proj", "x_proj"}


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_of_other_models_every_module_is_called(architecture):
    assert uncalled(tiny.tiny_model(architecture)) == Uncalled()


def with_tower():
    """A model that reads images too, whose tower has modules of the decoder's names."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config={**sizes, "vocab_size": 259, "num_key_value_heads": 1, "head_dim": 16},
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.Gemma3ForConditionalGeneration(config).eval()


@pytest.mark.parametrize(
    "settings", [{}, {"positions": "l2"}, {"layers": [1]}, {"init": "pissa"}, {"exclude": ["o_proj"]}]
)
def test_all_linear_leaves_out_towers_that_a_text_does_not_run(settings):
    """PEFT adapts them, to no effect on a text: a fifth of the numbers that would be trained and saved here."""
    model = with_tower()
    in_decoder = {name for name in linear_names(model) if "language_model" in name}
    assert uncalled(model) == Uncalled(of_towers=frozenset(linear_names(model) - in_decoder - {"lm_head"}))
    assert lora_faults(model, LoraSettings(rank=2, **settings)) == []
    attach(model, "a", LoraStage(method="lora", rank=2, steps=1, **settings))
    layers, left = settings.get("layers", [0, 1]), settings.get("exclude", [])
    expected = {name for name in in_decoder if any(f".layers.{layer}." in name for layer in layers)}
    assert adapted_names(model, "a") == {name for name in expected if name.rpartition(".")[2] not in left}


def test_pefts_all_linear_adapts_towers_to_no_effect_and_reads_what_heft_saves(tmp_path):
    plain = logits(with_tower())
    whole = peft.get_peft_model(
        with_tower(), peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    for name, layer in whole.named_modules():
        if "language_model" in name and hasattr(layer, "lora_B"):
            torch.nn.init.zeros_(layer.lora_B["default"].weight)
    assert any("vision_tower" in name for name in adapted_names(whole.base_model.model, "default"))
    assert torch.equal(logits(whole.eval()), plain)
    model = with_tower()
    attach(model, "a", LoraStage(method="lora", rank=2, steps=1))
    with torch.no_grad():
        for parameter in adapter_parameters(model, ["a"]).values():
            parameter.normal_()
    save_adapter(tmp_path / "a", model, "a")
    read = peft.PeftModel.from_pretrained(with_tower(), tmp_path / "a").eval()
    assert torch.equal(logits(read), logits(model))
    assert not torch.allclose(logits(read), plain)
