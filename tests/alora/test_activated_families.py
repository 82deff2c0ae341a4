"""LoRA with positions on further families of models: on those that it fits, and refused in words where it does not."""

import pytest
import torch
import transformers
from masked import MaskedLora, gradients_of, shaken

import tiny
from heft.adapters.attach import attach, check_targets
from heft.adapters.methods import adapters_of
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.recipe.recipe import LoraStage
from heft.training.fused_lora import fused_lora
from tiny_recipe import write_recipe
from tolerance import assert_gradients, rounded

EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
PLAIN = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
FAMILIES = {
    "Qwen3Moe": EXPERTS,
    "Olmo2": {},
    "GPTNeoX": {"attention_dropout": 0.0, "hidden_dropout": 0.0},
    "Falcon": {"attention_dropout": 0.0, "hidden_dropout": 0.0, "new_decoder_architecture": False},
    "Bloom": {"n_head": 4, "n_layer": 2, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    "GPTJ": {**PLAIN, "rotary_dim": 4, "n_head": 4, "n_layer": 2, "n_embd": 32, "n_inner": 64},
    "StableLm": {},
    "Mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "DeepseekV3": EXPERTS
    | {"n_routed_experts": 4, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "n_group": 1,
       "topk_group": 1, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4},
}  # fmt: skip
STAGE = {"method": "lora", "rank": 2, "positions": "l2", "steps": 1}


def built(kind):
    config = getattr(transformers, f"{kind}Config")(**{**tiny.COMMON, "num_key_value_heads": 2, **FAMILIES[kind]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", FAMILIES)
def test_loss_and_gradients_are_those_of_the_update_under_an_explicit_mask(kind):
    """Rows of one length, since some of these models compute padding with the rest.

    In float64, since some are badly conditioned, but for experts, which torch multiplies in float32 at most.
    """
    dtype = torch.float32 if FAMILIES[kind].keys() & EXPERTS.keys() else torch.float64
    model = built(kind)
    torch.manual_seed(0)
    attach(model, "a", LoraStage(**STAGE, exclude=["kv_b_proj"] if kind == "DeepseekV3" else []))
    shaken(model).to(dtype)
    ids = torch.randint(3, 259, (2, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :6] = labels[1, :7] = -100
    acted = torch.zeros_like(ids)
    acted[0, 4:] = acted[1, 5:] = 1
    reference = MaskedLora(built(kind).to(dtype), model).acting_on(a=acted)
    expected = reference.model(input_ids=ids, labels=labels).loss
    for fused in (False, True):
        with fused_lora(model, fused):
            loss = model(input_ids=ids, labels=labels).loss
            assert loss.item() == rounded(expected.item())
            found = gradients_of(model, loss, "a")
            assert_gradients(found, reference.gradients(expected, "a"))
            expected = reference.model(input_ids=ids, labels=labels).loss


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("Qwen3Moe", {"targets": ["q_proj", "gate_up_proj"]}, "gate_up_proj: it holds weights of experts"),
        ("DeepseekV3", {}, "kv_b_proj: the input of a module"),  # it expands all latents of the cache
        ("StableLm", {"targets": ["q_proj", "lm_head"]}, "lm_head: the output head sees the scored columns only"),
    ],
)
def test_modules_whose_rows_belong_to_no_token_are_refused_by_name(kind, options, named):
    (adapter,) = adapters_of("a", LoraStage(**STAGE, **options))
    faults = [fault for fault in adapter.faults(built(kind)) if named in fault]
    assert {fault.count("positions: all") for fault in faults} == {1}  # what to do is said once


def test_a_module_with_an_input_of_another_shape_is_refused_in_the_recipes_words(tmp_path):
    model = tiny.tiny_model()
    attention = model.model.layers[1].self_attn.q_proj
    forward = type(attention).forward
    attention.forward = lambda x: forward(attention, x[:, 1:])
    attention.register_forward_pre_hook(lambda module, args: (args[0].transpose(0, 1),))
    recipe = load_recipe(write_recipe(tmp_path, "{coarse: {method: lora, rank: 2, positions: l2, steps: 1}}"))
    with pytest.raises(HeftError, match=r"stages\.coarse: targets: with positions l2\+ .*layers\.1\.self_attn\.q_proj"):
        check_targets(model, recipe)
