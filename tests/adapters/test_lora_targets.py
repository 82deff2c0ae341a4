"""Which weights LoRA adapts in models of other kinds than Llama's."""

from contextlib import nullcontext

import peft
import pytest
import torch
import transformers

import tiny
from heft.adapters.attach import adapter_parameters, attach, check_targets, finish, left_out_in_words
from heft.adapters.directory import attach_saved, save_adapter
from heft.adapters.lora import lora_faults
from heft.adapters.lora_targets import (
    adapted_names,
    endings_of,
    expert_names,
    left_out,
    linear_names,
    shared_weights,
    unadaptable,
)
from heft.errors import HeftError
from heft.recipe.recipe import LoraSettings, LoraStage, Recipe

IDS = torch.arange(3, 40)[None]
SIZES = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}


def built(kind, **more):
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def qwen3_moe():
    return built("Qwen3Moe", **EXPERTS)


def phimoe():
    return built("Phimoe", num_local_experts=4, num_experts_per_tok=2)


def mamba():
    config = transformers.MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2, state_size=8)
    return transformers.MambaForCausalLM(config).eval()


def trained(model, **settings):
    attached = attach(model, "coarse", LoraStage(method="lora", rank=2, steps=1, **settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(model, ["coarse"]).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    finish(model, attached)
    return model


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"targets": ["q_proj", "v_proj"]},
        {"targets": ["q_proj", "gate_up_proj"]},
        {"targets": ["gate_up_proj", "down_proj"]},
        {"targets": ["gate_up_proj"], "layers": [1]},
        {"rank_pattern": {"gate_up_proj": 3}},
    ],
)
def test_an_adapter_of_experts_is_read_back_by_heft_and_by_peft_to_the_bit(tmp_path, settings):
    model = trained(qwen3_moe(), **settings)
    save_adapter(tmp_path / "coarse", model, "coarse")
    again, plain = qwen3_moe(), qwen3_moe()
    assert (logits(model) - logits(again)).abs().max() > 1e-3
    attach_saved(again, tmp_path / "coarse", "coarse")
    assert torch.equal(logits(model), logits(again))
    assert torch.equal(logits(model), logits(peft.PeftModel.from_pretrained(plain, tmp_path / "coarse").eval()))


def test_experts_can_be_named_where_all_linear_leaves_them_out():
    model = trained(built("GptOss", num_local_experts=4, num_experts_per_tok=2), targets=["gate_up_proj", "down_proj"])
    adapted = {
        layer.parameter_name for layer in model.modules() if isinstance(layer, peft.tuners.lora.layer.ParamWrapper)
    }
    assert adapted == {"gate_up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("settings", "adapted"),
    [
        ({"layers": [1]}, {"model.layers.1.self_attn.q_proj", "model.layers.1.mlp.experts.gate_up_proj"}),
        ({"exclude": ["experts.gate_up_proj"]}, {f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)}),
        (
            {"exclude": ["layers.0.mlp.experts.gate_up_proj", "layers.1.self_attn.q_proj"]},
            {"model.layers.0.self_attn.q_proj", "model.layers.1.mlp.experts.gate_up_proj"},
        ),
    ],
    ids=["layers", "exclude", "both-kinds"],
)
def test_layers_and_exclude_hold_for_experts_too(settings, adapted):
    """PEFT knows neither of parameters."""
    model = trained(qwen3_moe(), targets=["q_proj", "gate_up_proj"], **settings)
    assert adapted_names(model, "coarse") == adapted


def test_experts_that_all_linear_takes_whatever_is_excluded_are_named():
    (fault,) = lora_faults(qwen3_moe(), LoraSettings(exclude=["gate_up_proj", "q_proj"]))
    assert fault.startswith("exclude: 'gate_up_proj' is of experts' weights, which PEFT adapts with all-linear")
    assert (
        lora_faults(built("GptOss", num_local_experts=4, num_experts_per_tok=2), LoraSettings(exclude=["down_proj"]))
        == []
    )


def test_what_all_linear_leaves_out_of_chosen_layers_is_said():
    """Behind `layers` PEFT's all-linear is a list of linear modules, and experts are none."""
    model, stage = qwen3_moe(), LoraStage(method="lora", rank=2, layers=[1], steps=1)
    attach(model, "coarse", stage)
    (words,) = left_out_in_words(model, "coarse", stage)
    assert "mlp.experts.down_proj (1 blocks), mlp.experts.gate_up_proj (1 blocks)" in words


def test_what_all_linear_leaves_out_is_said():
    model = built("GptOss", num_local_experts=4, num_experts_per_tok=2)
    stage = LoraStage(method="lora", rank=2, steps=1)
    attach(model, "coarse", stage)
    assert left_out(model, "coarse") == {"mlp.experts.down_proj": 2, "mlp.experts.gate_up_proj": 2}
    (words,) = left_out_in_words(model, "coarse", stage)
    assert words.startswith("coarse: LoRA leaves out mlp.experts.down_proj (2 blocks), mlp.experts.gate_up_proj")


def test_of_a_llama_nothing_is_left_out():
    model = tiny.tiny_model()
    stage = LoraStage(method="lora", rank=2, steps=1)
    attach(model, "coarse", stage)
    assert left_out_in_words(model, "coarse", stage) == []


@pytest.mark.parametrize(("build", "endings"), [(phimoe, ["mlp.router"]), (mamba, ["mixer.dt_proj", "mixer.out_proj"])])
def test_linears_that_lora_cannot_adapt_are_left_out_and_refused_by_name(build, endings):
    model = build()
    assert endings_of(unadaptable(model), linear_names(model)) == endings
    faults = lora_faults(model, LoraSettings(targets=endings))
    assert len(faults) == len(endings)
    assert all("cannot adapt" in fault for fault in faults)
    before = logits(model)
    trained(model)
    assert (logits(model) - before).abs().max() > 1e-3
    assert left_out(model, "coarse").keys() >= set(endings)


def test_a_linear_module_of_another_class_that_multiplies_rows_is_adapted():
    config = transformers.FalconConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    assert not unadaptable(transformers.FalconForCausalLM(config))


def test_what_peft_refuses_is_one_message_with_the_stage():
    with pytest.raises(HeftError, match=r"stages\.coarse: .*dropout"):
        attach(qwen3_moe(), "coarse", LoraStage(method="lora", rank=2, steps=1, dropout=0.1))


def test_a_start_that_changes_weights_is_refused_where_modules_share_them():
    model = tiny.tiny_model()
    model.model.layers[1].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    assert shared_weights(model) == {f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)}
    (fault,) = lora_faults(model, LoraSettings(init="pissa"))
    assert "several modules share" in fault
    assert lora_faults(model, LoraSettings()) == []


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_start_that_changes_weights_is_refused_where_these_would_be_rounded(init):
    model = tiny.tiny_model().to(torch.bfloat16)
    (fault,) = lora_faults(model, LoraSettings(init=init))
    assert "would be rounded to bfloat16; set model.dtype: float32" in fault
    assert lora_faults(model, LoraSettings()) == []


def test_convolutions_norms_and_vectors_are_no_experts():
    assert expert_names(mamba()) == set()
    rwkv = transformers.RwkvConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    assert expert_names(transformers.RwkvForCausalLM(rwkv)) == set()
    assert {name.rpartition(".")[2] for name in expert_names(qwen3_moe())} == {"gate_up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (["gate_up_proj"], ["down_proj"], "stage a adapts gate_up_proj, and this one down_proj"),
        ("all-linear", ["experts.down_proj"], "this one experts.down_proj"),
        (["gate_up_proj", "down_proj"], ["down_proj", "gate_up_proj"], None),
        (["gate_up_proj"], ["q_proj"], None),
        (["q_proj"], "all-linear", None),
    ],
)
def test_experts_that_a_second_stage_cannot_adapt_are_told_before_the_first_is_trained(first, second, refused):
    stages = {name: LoraStage(method="lora", targets=each) for name, each in (("a", first), ("b", second))}
    recipe = Recipe(name="r", task={"name": "whereabouts"}, stages=stages)
    with pytest.raises(HeftError, match=f"stages.b: targets: .*{refused}") if refused else nullcontext():
        check_targets(qwen3_moe(), recipe)
    model = qwen3_moe()
    attach(model, "a", stages["a"])
    with pytest.raises(HeftError) if refused else nullcontext():  # what PEFT says of it
        attach(model, "b", stages["b"])
