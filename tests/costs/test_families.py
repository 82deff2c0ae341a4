"""FLOPs of experts and hybrids as counted from shapes, against torch's own counter of what ran."""

import pytest
import torch
import transformers
from test_rows import ROWS, plain_step, reft

import tiny
from counting import counted
from heft.adapters.attach import attach
from heft.costs.operations import model_costs
from heft.costs.rows import plain_row, span
from heft.data.encode import Encoder, training_batch
from heft.tasks.example import generation_example
from heft.training.loss import answer_loss

SIZES = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip
CHUNK = 256
"""Tokens that recurrent layers compute in one piece."""
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}


def built(kind, model="ForCausalLM", **more):
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **more})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{kind}{model}")(config).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    model.set_experts_implementation("batched_mm")  # what ran is then a product a token and expert, as counted
    return model


def skeleton(kind, model="ForCausalLM", **more):
    with torch.device("meta"):
        return built(kind, model, **more).to("meta")  # XLNet makes weights on the CPU all the same


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


RECURRENT = [
    ("Mamba2", {"num_heads": 8, "state_size": 8, "n_groups": 1}),
    ("Qwen3Next", {"layer_types": ["linear_attention", "full_attention"], "num_experts": 0, "linear_num_key_heads": 4,
                   "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}),
    ("Mamba", {"state_size": 8}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "model", "more"),
    [(kind, "ForCausalLM", more) for kind, more in RECURRENT]
    + [
        ("XLNet", "LMHeadModel", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),  # einsum
        ("Whisper", "ForCausalLM", {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4}),  # all logits
        ("RemBert", "ForCausalLM", {"is_decoder": True, "output_embedding_size": 48}),  # a layer behind the body
    ],
)
def test_chunks_loops_and_heads_are_counted(kind, model, more):
    ids = torch.arange(CHUNK)[None] % 200 + 3
    with torch.no_grad():
        ran = counted(lambda: built(kind, model, **more)(input_ids=ids, use_cache=False))
    costs = model_costs(skeleton(kind, model, **more))
    assert span(costs, CHUNK, 0, CHUNK, CHUNK).forward == pytest.approx(ran, rel=2e-2)


@pytest.mark.parametrize(("kind", "more"), RECURRENT)
def test_a_reft_step_on_recurrent_layers_is_counted(kind, more):
    (row,) = Encoder(tiny.byte_tokenizer(), 2 * CHUNK)([generation_example("t", "a" * (CHUNK - 4) + ":", " b", "b")])
    stage = reft(positions="all")
    model, other = built(kind, **more), skeleton(kind, **more)
    attach(model, "fine", stage)
    with torch.device("meta"):
        attach(other, "fine", stage)
    expected = counted(lambda: answer_loss(model, training_batch([row], 0)).backward())
    assert plain_row(model_costs(other), row) == pytest.approx(expected, rel=3e-2)
