"""In which models a prefix can stand for its tokens, and what is kept of it."""

import pytest
import torch
import transformers
from transformers import DynamicCache

import tiny
from heft.models.prefix_states import keeps_plain_keys, packed, unpacked

SIZES = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}  # fmt: skip


def built(kind, **more):
    with torch.device("meta"):
        return getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**{**SIZES, **more}))


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_plain_decoders_keep_plain_keys(architecture):
    assert keeps_plain_keys(tiny.tiny_model(architecture))


LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [1.5] * 4, "factor": 2.0}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("Qwen3Next", {"layer_types": ["linear_attention", "full_attention"], "num_experts": 4}),
        ("Mamba", {}),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
        ("Phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 64}),
        ("RecurrentGemma", {}),
        ("Rwkv", {}),
    ],
)
def test_recurrent_states_other_caches_and_scaling_by_length_are_not_plain_keys(kind, more):
    assert not keeps_plain_keys(built(kind, **more))


def test_keys_and_values_of_unequal_sizes_come_back_as_they_were():
    cache = DynamicCache()
    for layer, (heads, key, value) in enumerate([(4, 16, 8), (2, 8, 8), (1, 32, 16)]):
        cache.update(torch.randn(3, heads, 7, key), torch.randn(3, heads, 7, value), layer)
    states_BWS, parts = packed(cache)
    assert states_BWS.shape == (3, 4 * 24 + 2 * 16 + 48, 7)
    again = unpacked(states_BWS, parts)
    for layer, kept in zip(cache.layers, again.layers, strict=True):
        assert torch.equal(layer.keys, kept.keys)
        assert torch.equal(layer.values, kept.values)
