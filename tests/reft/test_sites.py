import pytest
import torch
import transformers
from torch import nn

from heft.reft.sites import block_names, blocks_without, decoder_of, site_names
from tiny import ARCHITECTURES, tiny_model

BLOCKS = {"gpt2": "transformer.h"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_are_found_in_order_and_each_has_its_attention_and_mlp(architecture):
    model = tiny_model(architecture)
    count, stem = model.config.num_hidden_layers, BLOCKS.get(architecture, "model.layers")
    assert block_names(model) == [f"{stem}.{i}" for i in range(count)]
    assert site_names(model, "all", "block") == block_names(model)
    for site, word in (("attention", "attn"), ("mlp", "mlp")):
        names = site_names(model, "all", site)
        assert [name.rpartition(".")[0] for name in names] == block_names(model)
        assert all(word in name.rpartition(".")[2] for name in names)


@pytest.mark.parametrize(("layers", "numbers"), [([2, 0], [0, 2]), ([-1], [2]), ([0, -1], [0, 2]), ("all", [0, 1, 2])])
def test_layers_count_from_the_start_or_from_the_end(layers, numbers):
    assert site_names(tiny_model(), layers, "block") == [f"model.layers.{i}" for i in numbers]


@pytest.mark.parametrize("layers", [[3], [-4], [0, 7]])
def test_layers_that_do_not_exist_are_named_with_those_that_do(layers):
    with pytest.raises(ValueError, match="this model has 3 layers, 0 to 2") as error:
        site_names(tiny_model(), layers, "block")
    assert str(layers[-1]) in str(error.value)


def test_a_layer_named_from_both_ends_is_refused():
    with pytest.raises(ValueError, match="twice"):
        site_names(tiny_model(), [2, -1], "block")


def test_a_block_without_such_a_child_says_what_it_has():
    model = tiny_model()
    block = model.model.layers[0]
    block.feed = block._modules.pop("mlp")
    with pytest.raises(ValueError, match=r"model.layers.0 has no mlp among its modules \[.*'feed'.*\]"):
        site_names(model, [0], "mlp")


def test_a_model_without_a_list_of_blocks_is_refused():
    model = tiny_model()
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(ValueError, match="found no list of 3 blocks"):
        block_names(model)


def on_meta(kind, name="ForCausalLM", **config):
    sizes = {"vocab_size": 259, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **config}
    with torch.device("meta"):
        return getattr(transformers, f"{kind}{name}")(getattr(transformers, f"{kind}Config")(**sizes))


def test_a_vision_tower_as_deep_as_the_decoder_is_left_alone():
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 259}
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=vision)
    with torch.device("meta"):
        model = transformers.Gemma3ForConditionalGeneration(config)
    assert block_names(model) == ["model.language_model.layers.0", "model.language_model.layers.1"]


def test_blocks_are_found_where_get_decoder_is_not_the_decoder():
    model = on_meta("ModernBertDecoder", intermediate_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    assert isinstance(model.get_decoder(), nn.Linear)
    assert type(decoder_of(model)).__name__ == "ModernBertDecoderModel"
    assert block_names(model) == ["model.layers.0", "model.layers.1"]


def test_one_list_of_blocks_is_taken_though_the_model_counts_its_layers_otherwise():
    model = tiny_model()
    model.config.num_hidden_layers = 6
    assert block_names(model) == [f"model.layers.{i}" for i in range(3)]


def test_lists_of_another_length_and_lists_within_blocks_are_not_the_blocks():
    model = tiny_model()
    model.model.others = nn.ModuleList(nn.Identity() for _ in range(2))
    model.model.layers[0].experts = nn.ModuleList(nn.Identity() for _ in range(3))
    assert block_names(model) == [f"model.layers.{i}" for i in range(3)]


def test_blocks_may_stand_in_a_part_of_the_decoder():
    model = on_meta("Bert", "LMHeadModel", intermediate_size=64, is_decoder=True)
    assert block_names(model) == ["bert.encoder.layer.0", "bert.encoder.layer.1"]


def test_two_lists_of_as_many_parts_are_refused_since_neither_is_the_blocks():
    model = tiny_model()
    model.model.others = nn.ModuleList(nn.Identity() for _ in range(3))
    with pytest.raises(ValueError, match=r"lists of modules: layers \(3\), others \(3\)"):
        block_names(model)


@pytest.mark.parametrize(
    ("kind", "config", "attention", "mlp"),
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}, ["conv", "self_attn"], ["feed_forward"] * 2),
        ("Mamba", {}, ["mixer", "mixer"], None),
        ("Dbrx", {"attn_config": {"rope_theta": 1e4}}, ["norm_attn_norm.attn"] * 2, ["ffn"] * 2),
        ("GraniteMoe", {}, ["self_attn"] * 2, ["block_sparse_moe"] * 2),
        ("GraniteMoeShared", {"shared_intermediate_size": 64}, ["self_attn"] * 2, None),
    ],
)
def test_sites_of_hybrid_and_older_families_are_found_or_refused(kind, config, attention, mlp):
    model = on_meta(kind, **config)
    blocks = block_names(model)
    assert site_names(model, "all", "attention") == [f"{b}.{a}" for b, a in zip(blocks, attention, strict=True)]
    if mlp is None:
        with pytest.raises(ValueError, match="has no mlp among its modules .*; use site: block"):
            site_names(model, "all", "mlp")
    else:
        assert site_names(model, "all", "mlp") == [f"{b}.{m}" for b, m in zip(blocks, mlp, strict=True)]


def test_all_layers_are_those_that_have_the_site_and_the_others_are_named():
    model = on_meta("NemotronH", num_hidden_layers=3, layers_block_type=["linear_attention", "mlp", "full_attention"],
                    mamba_num_heads=8, mamba_head_dim=8, n_groups=1)  # fmt: skip
    mixers = [f"{name}.mixer" for name in block_names(model)]
    assert site_names(model, "all", "attention") == [mixers[0], mixers[2]]
    assert site_names(model, "all", "mlp") == [mixers[1]]
    assert blocks_without(model, site_names(model, "all", "attention")) == [1]
    with pytest.raises(ValueError, match="has no mlp"):
        site_names(model, [0], "mlp")
