import pytest
from torch import nn

from heft.reft.sites import block_names, site_names
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
