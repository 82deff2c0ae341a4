"""FLOPs of experts and hybrids as counted from shapes, against torch's own counter of what ran."""

import pytest
import torch
import transformers
from test_rows import ROWS, plain_step, reft

from counting import counted
from heft.adapters.attach import attach
from heft.costs.operations import model_costs
from heft.costs.rows import plain_row, span

SIZES = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}


def built(kind, **more):
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    model.set_experts_implementation("batched_mm")  # what ran is then a product a token and expert, as counted
    return model


def skeleton(kind, **more):
    with torch.device("meta"):
        return built(kind, **more)


@pytest.mark.parametrize("kind", ["Qwen3Moe", "Mixtral", "Olmoe"])
def test_a_forward_pass_of_experts_is_counted(kind):
    more = EXPERTS | ({"num_local_experts": 4} if kind == "Mixtral" else {})
    ids = torch.arange(3, 3 + 37)[None]
    with torch.no_grad():
        ran = counted(lambda: built(kind, **more)(input_ids=ids, use_cache=False))
    costs = model_costs(skeleton(kind, **more))
    assert span(costs, 37, 0, 37, 37).forward == pytest.approx(ran, rel=1e-2)


def test_a_reft_step_on_experts_is_counted():
    stage = reft(positions="f1+l2")
    model, other = built("Qwen3Moe", **EXPERTS), skeleton("Qwen3Moe", **EXPERTS)
    attach(model, "fine", stage)
    with torch.device("meta"):
        attach(other, "fine", stage)
    costs = model_costs(other)
    expected = counted(lambda: plain_step(model))
    assert sum(plain_row(costs, row) for row in ROWS) == pytest.approx(expected, rel=1e-2)


def test_weights_of_a_tokens_experts_are_not_taken_for_activations():
    dense = model_costs(skeleton("Qwen3", intermediate_size=32)).saved.token
    stage = reft(positions="all")
    other = skeleton("Qwen3Moe", **EXPERTS)
    with torch.device("meta"):
        attach(other, "fine", stage)
    kept = model_costs(other).saved.token
    assert dense == 0.0  # nothing trains, so nothing is kept
    assert kept < 4 * 3 * 16 * 32  # bytes of one expert's weights, of which each token takes two a layer


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
        ("Bloom", {"n_layer": 2, "n_head": 4}),  # its scores are a product that is added to a bias by position
    ],
)
def test_a_hybrid_scaling_by_length_and_scores_with_a_bias_are_counted(kind, more):
    ids = torch.arange(3, 3 + 37)[None]
    with torch.no_grad():
        ran = counted(lambda: built(kind, **more)(input_ids=ids, use_cache=False))
    costs = model_costs(skeleton(kind, **more))
    assert span(costs, 37, 0, 37, 37).forward == pytest.approx(ran, rel=2e-2)
