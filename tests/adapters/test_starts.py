"""Starts of LoRA that a model has no place for are refused before anything is trained; those that it has undo."""

import peft
import pytest
import torch
import transformers

import tiny
from heft.adapters.attach import adapter_parameters, attach, check_targets, finish
from heft.adapters.lora import lora_faults
from heft.errors import HeftError
from heft.recipe.recipe import LoraSettings, LoraStage, Recipe

IDS = torch.arange(3, 40)[None]
KEYS = "model.layers.0.self_attn.k_proj"


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def moved(model, **settings):
    """The model's logits with a stage's adapter moved, before its start is taken back and after."""
    attached = attach(model, "a", LoraStage(method="lora", steps=1, **settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(model, ["a"]).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    trained = logits(model)
    finish(model, attached)
    return trained, logits(model)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_2", "olora"])
def test_a_start_of_more_directions_than_a_weight_has_is_refused(init):
    """The keys' weights are 16 by 32, with 16 directions; of a rank of 17 the start could not be taken back."""
    model = tiny.tiny_model()
    (fault,) = lora_faults(model, LoraSettings(init=init, rank=17))
    assert fault.startswith(f"init: {init} starts from as many directions of a weight as the rank is")
    assert f"{KEYS} has 16 and rank 17" in fault
    assert lora_faults(model, LoraSettings(rank=17)) == []
    assert lora_faults(model, LoraSettings(init=init, rank=17, targets=["q_proj"])) == []
    fitting = {"init": init, "rank": 17, "rank_pattern": {"k_proj": 16, "v_proj": 16}}
    assert lora_faults(model, LoraSettings(**fitting)) == []
    trained, finished = moved(model, **fitting)
    assert torch.allclose(finished, trained, atol=1e-4)


def test_the_start_that_peft_makes_of_a_transposed_weight_is_refused():
    """PEFT's own OLoRA is no start without change on GPT-2, whose weights are (in, out)."""
    plain = tiny.tiny_model("gpt2")
    config = peft.LoraConfig(r=4, init_lora_weights="olora", target_modules=["attn.c_proj"], fan_in_fan_out=True)
    started = peft.get_peft_model(tiny.tiny_model("gpt2"), config)
    assert not torch.allclose(logits(started), logits(plain), atol=0.1)
    (fault,) = lora_faults(plain, LoraSettings(rank=4, init="olora"))
    assert fault.startswith("init: olora, as PEFT makes it, takes weights of Conv1D modules for transposed ones")
    assert lora_faults(plain, LoraSettings(rank=4, init="pissa")) == []
    trained, finished = moved(plain, rank=4, init="pissa")
    assert torch.allclose(finished, trained, atol=1e-4)


def moe():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    config = transformers.Qwen3MoeConfig(vocab_size=259, num_key_value_heads=2, **sizes, **experts)
    return transformers.Qwen3MoeForCausalLM(config).eval()


@pytest.mark.parametrize("setting", [{"dropout": 0.1}, {"dora": True}, {"init": "orthogonal"}, {"init": "pissa"}])
def test_what_peft_does_not_do_with_experts_is_told_before_a_stage_is_trained(setting):
    second = LoraStage(method="lora", rank=2, targets=["q_proj", "gate_up_proj"], **setting)
    stages = {"a": LoraStage(method="lora", targets=["q_proj"]), "b": second}
    with pytest.raises(HeftError, match=r"stages\.b: targets: PEFT adapts experts' weights .* by plain LoRA only; got"):
        check_targets(moe(), Recipe(name="r", task={"name": "whereabouts"}, stages=stages))
    with pytest.raises(HeftError):  # what PEFT says of it
        attach(moe(), "b", second)
    assert lora_faults(moe(), LoraSettings(rank=2, targets=["q_proj"], **setting)) == []
    assert lora_faults(moe(), LoraSettings(rank=2, targets=["gate_up_proj"], init="gaussian", rslora=True)) == []


@pytest.mark.parametrize(
    ("kind", "name"), [("llama", "model.layers.0.self_attn.q_proj"), ("gpt2", "transformer.h.0.attn.c_attn")]
)
def test_dora_is_refused_on_weights_that_it_would_divide_by_zero(kind, name):
    """PEFT's gradient of such a module is NaN."""
    model = tiny.tiny_model(kind)
    assert lora_faults(model, LoraSettings(dora=True)) == []
    weight = model.get_submodule(name).weight
    with torch.no_grad():
        (weight[:, 3] if kind == "gpt2" else weight[3]).zero_()
    (fault,) = lora_faults(model, LoraSettings(dora=True))
    assert fault.startswith(f"dora: true divides the weights of each output by their length, which is 0 in {name} (")
    assert lora_faults(model, LoraSettings(dora=True, exclude=[name])) == []
    assert lora_faults(model, LoraSettings()) == []
    config = peft.LoraConfig(use_dora=True, target_modules=[name], fan_in_fan_out=kind == "gpt2")
    adapted = peft.get_peft_model(model, config)
    adapted(IDS, labels=IDS).loss.backward()
    assert any(each.grad.isnan().any() for each in adapted.parameters() if each.grad is not None)
    assert lora_faults(tiny.tiny_model(kind).to("meta"), LoraSettings(dora=True)) == []
