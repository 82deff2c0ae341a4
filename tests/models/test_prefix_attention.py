"""Attention that reads a prefix in place, against the definition in float64 and in models of unlike attention."""

import pytest
import torch
import transformers
from torch import nn

import tiny
from heft.data.encode import left_pad
from heft.models.prefix_attention import (
    NAME,
    Block,
    LayerPrefix,
    PrefixLayer,
    prefix_attention,
    reading_cache,
    reads_prefix,
)
from heft.models.prefix_blocks import SpareMemory, layer_prefixes, read_row_by_row
from heft.models.prefix_states import packed

CPU = torch.device("cpu")
ROWS, HEADS, GROUPS, TOKENS, COLUMNS, SIZE, VALUE_SIZE = 3, 2, 3, 4, 6, 8, 5
LENGTHS = [6, 0, 4]


def by_definition(query, keys, values, mask, scaling, softcap=None, sinks=None):
    """Attention over all columns, head by head: (B, T, heads, E)."""
    outputs = []
    for head in range(query.shape[1]):
        scores = query[:, head] @ keys[:, head // GROUPS].mT * scaling
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~mask[:, 0], -torch.inf)
        if sinks is not None:
            scores = torch.cat([scores, sinks[head].expand(*scores.shape[:2], 1)], -1)
        probs = scores.softmax(-1)[..., : keys.shape[2]]
        outputs.append(probs @ values[:, head // GROUPS])
    return torch.stack(outputs, 2)


def made(dtype=torch.float64):
    """Query, key and value of the tokens, states of each row's prefix, and a mask of padding and order."""
    numbers = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=numbers, dtype=torch.float64).to(dtype)

    own = normal(ROWS, HEADS * GROUPS, TOKENS, SIZE), normal(ROWS, HEADS, TOKENS, SIZE)
    own = [*own, normal(ROWS, HEADS, TOKENS, VALUE_SIZE)]
    states = [normal(HEADS * (SIZE + VALUE_SIZE), n) if n else None for n in LENGTHS]
    seen = torch.arange(COLUMNS) >= COLUMNS - torch.tensor(LENGTHS)[:, None]
    order = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril().expand(ROWS, -1, -1)
    mask = torch.cat([seen[:, None].expand(-1, TOKENS, -1), order], -1)[:, None]
    return own, states, mask


def layer_of(states, row_by_row, monkeypatch):
    monkeypatch.setattr("heft.models.prefix_blocks.read_row_by_row", lambda device, dtype: row_by_row)
    (layer,) = layer_prefixes(states, [(HEADS, SIZE), (HEADS, VALUE_SIZE)], CPU, SpareMemory())
    return layer


def whole(own, states):
    """Keys and values of prefix and tokens in one tensor each, with zeros where a row has no prefix."""
    filled = []
    for row in states:
        row = own[0].new_zeros(HEADS * (SIZE + VALUE_SIZE), 0) if row is None else row
        filled.append(nn.functional.pad(row, (COLUMNS - row.shape[1], 0)))
    keys, values = torch.stack(filled).split([HEADS * SIZE, HEADS * VALUE_SIZE], 1)
    both = zip((keys, values), own[1:], (SIZE, VALUE_SIZE), strict=True)
    return [torch.cat([before.unflatten(1, (HEADS, size)).mT, after], 2) for before, after, size in both]


@pytest.mark.parametrize("row_by_row", [True, False])
@pytest.mark.parametrize("form", ["bool", "added"])
@pytest.mark.parametrize(
    "more", [{}, {"scaling": 0.3}, {"softcap": 1.5}, {"s_aux": torch.linspace(-1, 1, 6, dtype=torch.float64)}]
)
def test_outputs_and_gradients_are_those_of_the_definition(more, form, row_by_row, monkeypatch):
    own, states, mask = made()
    leaves = [tensor.requires_grad_() for tensor in own]
    (key, value), weights = PrefixLayer(layer_of(states, row_by_row, monkeypatch)).update(*leaves[1:]), torch.rand(5)
    given = mask if form == "bool" else (~mask).double() * torch.finfo(torch.float64).min
    found, _ = prefix_attention(nn.Module(), leaves[0], key, value, given, **more)
    grads = torch.autograd.grad((found * weights).sum(), leaves)
    expected = by_definition(
        leaves[0], *whole(leaves, states), mask, more.get("scaling", SIZE**-0.5), more.get("softcap"), more.get("s_aux")
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # a sink's softmax is done in float32
    for grad, wanted in zip(grads, torch.autograd.grad((expected * weights).sum(), leaves), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("row_by_row", [True, False])
def test_bfloat16_is_the_definition_to_its_rounding(row_by_row, monkeypatch):
    own, states, mask = made(torch.bfloat16)
    layer = PrefixLayer(layer_of(states, row_by_row, monkeypatch))
    found, _ = prefix_attention(nn.Module(), own[0], *layer.update(*own[1:]), mask)
    assert found.dtype == torch.bfloat16
    exact = [tensor.double() for tensor in own]
    expected = by_definition(
        exact[0], *whole(exact, [None if s is None else s.double() for s in states]), mask, SIZE**-0.5
    )
    assert (found - expected).abs().max() < 4 * torch.finfo(torch.bfloat16).eps * expected.abs().max()


def test_a_query_that_sees_nothing_gets_finite_numbers(monkeypatch):
    own, states, mask = made(torch.float32)
    leaves = [tensor.requires_grad_() for tensor in own]
    mask[1, :, 0] = False
    layer = PrefixLayer(layer_of(states, True, monkeypatch))
    found, _ = prefix_attention(nn.Module(), leaves[0], *layer.update(*leaves[1:]), mask)
    found.sum().backward()
    assert all(torch.isfinite(tensor).all() for tensor in (found, *(leaf.grad for leaf in leaves)))


@pytest.mark.parametrize("what", ["changed key", "changed value", "dropout", "bias", "no mask", "shorter mask"])
def test_what_it_does_not_compute_is_refused(what, monkeypatch):
    own, states, mask = made()
    key, value = PrefixLayer(layer_of(states, True, monkeypatch)).update(*own[1:])
    key, value = (key * 1 if what == "changed key" else key), (value * 1 if what == "changed value" else value)
    mask = None if what == "no mask" else mask[..., 1:] if what == "shorter mask" else mask
    more = {"dropout": 0.1 * (what == "dropout"), "position_bias": torch.zeros(1) if what == "bias" else None}
    with pytest.raises(ValueError, match=r"^Module (changes keys|attends with|masks 9 columns)"):
        prefix_attention(nn.Module(), own[0], key, value, mask, **more)


def test_a_prefix_of_float32_on_a_cpu_is_read_where_it_lies_and_bfloat16_side_by_side():
    assert read_row_by_row(CPU, torch.float32)
    assert not read_row_by_row(CPU, torch.bfloat16)
    row = torch.randn(32, 5)
    (layer,) = layer_prefixes([row], [(2, 8), (2, 8)], CPU, SpareMemory())
    assert layer.blocks[0].keys.data_ptr() == row.data_ptr()


def test_memory_is_lent_again_only_once_nobody_holds_it():
    spare = SpareMemory()
    first = spare.lend(8, torch.float32, CPU)
    second = spare.lend(8, torch.float32, CPU)
    assert first.numbers.data_ptr() != second.numbers.data_ptr()
    address = first.numbers.data_ptr()
    prefix = LayerPrefix([Block(0, first.numbers, first.numbers)], 8, first)
    del first
    assert spare.lend(4, torch.float32, CPU).numbers.data_ptr() != address
    del prefix
    assert spare.lend(4, torch.float32, CPU).numbers.data_ptr() == address


SIZES = {"vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
         "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.2}  # fmt: skip
LATENT = {"q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12}
WINDOW = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "Gemma2": WINDOW | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "GptOss": WINDOW | EXPERTS,
    "Mistral": {"sliding_window": 5},
    "Cohere": {},
    "Olmo2": {},
    "Granite": {"attention_multiplier": 0.3},
    "GPTNeoX": {"num_key_value_heads": None},
    "StableLm": {},
}
LATENT_HEADS = LATENT | {"num_key_value_heads": 4, "first_k_dense_replace": 2}


def family(name, more):
    fields = {key: value for key, value in (SIZES | more).items() if value is not None}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**fields))
    return model.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_models_of_unlike_attention_give_the_logits_of_a_whole_pass(name):
    model = family(name, FAMILIES[name])
    rows, split = [[7, 8, 9, 10, 11, 12, 13, 14, 15, 16], [21, 22, 23, 24, 25]], 6
    inputs = left_pad(rows, 0, CPU)
    with torch.no_grad():
        expected = model(**inputs).logits[:, split:]
        cache = transformers.DynamicCache()
        before = {key: value[:, :split] for key, value in inputs.items()}
        model(**before, past_key_values=cache, use_cache=True)
        states, parts = packed(cache)
        prefixes = layer_prefixes([states[0], states[1, :, -1:]], parts, CPU, SpareMemory())
        after = {key: inputs[key][:, split:] for key in ("input_ids", "position_ids")}
        after["attention_mask"] = inputs["attention_mask"]
        implementation = model.config._attn_implementation
        with reads_prefix(model):
            found = model(**after, past_key_values=reading_cache(prefixes), use_cache=False).logits
    assert model.config._attn_implementation == implementation
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_one_token_behind_a_row_without_padding_reads_its_prefix_too():
    """sdpa's kernel needs no mask there, and makes none by itself."""
    model = tiny.tiny_model()
    row = torch.tensor([[7, 8, 9, 10, 11]])
    with torch.no_grad():
        expected = model(row).logits[:, -1:]
        cache = transformers.DynamicCache()
        model(row[:, :-1], past_key_values=cache, use_cache=True)
        states, parts = packed(cache)
        prefixes = layer_prefixes([states[0]], parts, CPU, SpareMemory())
        call = {"attention_mask": torch.ones_like(row), "past_key_values": reading_cache(prefixes)}
        with reads_prefix(model):
            found = model(row[:, -1:], **call, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_attention_of_a_model_within_a_model_is_exchanged_and_put_back_each_time():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = transformers.LlamaConfig(**sizes, vocab_size=259)
    vision = transformers.CLIPVisionConfig(**sizes, image_size=28, patch_size=14, projection_dim=32)
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(text_config=text, vision_config=vision))
    configs = model.config, model.config.text_config, model.config.vision_config
    for asked in ("sdpa", "eager"):
        model.set_attn_implementation({"": "sdpa", "text_config": asked, "vision_config": "eager"})
        for _ in range(2):
            with reads_prefix(model):
                assert {config._attn_implementation for config in configs} == {NAME}
            assert [config._attn_implementation for config in configs] == ["sdpa", asked, "eager"]


def test_a_configuration_that_only_a_part_of_another_class_reads_is_put_back_too():
    text = transformers.LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    vision = transformers.CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, image_size=28,
                                           patch_size=14, num_attention_heads=4)  # fmt: skip
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(text_config=text, vision_config=vision))
    model.model.vision_tower = nn.Identity()  # no model of transformers, whose configuration would be found by itself
    model.config.vision_config._attn_implementation = "eager"
    with reads_prefix(model):
        assert model.config.vision_config._attn_implementation == NAME
    assert model.config.vision_config._attn_implementation == "eager"


def test_a_model_whose_attention_cannot_be_exchanged_is_refused():
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "vocab_size": 259, "rotary_dim": 4}
    model = transformers.CodeGenForCausalLM(transformers.CodeGenConfig(**sizes))
    with pytest.raises(ValueError, match="CodeGenForCausalLM cannot be exchanged"), reads_prefix(model):
        pass


def test_keys_that_a_model_makes_of_what_it_caches_are_refused():
    model = family("DeepseekV3", LATENT_HEADS)
    cache = transformers.DynamicCache()
    model(torch.tensor([[5, 6, 7]]), past_key_values=cache, use_cache=True)
    states, parts = packed(cache)
    prefixes = layer_prefixes([states[0].detach()], parts, CPU, SpareMemory())
    call = {"attention_mask": torch.ones(1, 5, dtype=torch.long), "past_key_values": reading_cache(prefixes)}
    with pytest.raises(ValueError, match="DeepseekV3Attention changes keys or values"), reads_prefix(model):
        model(torch.tensor([[8, 9]]), **call)


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_a_pass_without_a_reading_cache_is_refused_and_the_attention_is_what_it_was(architecture):
    model = tiny.tiny_model(architecture)
    before = model.config._attn_implementation
    with pytest.raises(ValueError, match="between the cache and its attention"), reads_prefix(model):
        model(torch.tensor([[5, 6, 7]]), use_cache=False)
    assert model.config._attn_implementation == before
