"""Lower-layer reuse against the plain path."""

import pytest
from peft import LoraConfig
from test_prefix import REFT, ROWS, assert_same_as_plain, batch_of, shake, staged
from transformers import AutoModelForCausalLM, XLMConfig, XLNetConfig

import tiny
from heft.adapters.attach import attach, inject, train_only
from heft.recipe.recipe import JointStage, LoraStage, ReftStage
from heft.training.loss import answer_loss
from heft.training.reuse.facts import first_edited_layer, has_dropout
from heft.training.reuse.lower_layers import LowerLayerReuse, answer_loss_on_lower_layers
from heft.training.reuse.stores import DiskStore, MemoryStore, Store


@pytest.mark.parametrize(("site", "positions"), [("block", "all"), ("attention", "f1+l2"), ("mlp", "l2")])
@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_loss_and_gradients_are_those_of_the_plain_path(architecture, site, positions, tmp_path):
    model = staged(architecture, positions, site=site, layers=[1, 2])
    assert first_edited_layer(model) == 1
    lengths = [len(row.prompt) + len(row.answer) for row in ROWS]
    for store in (Store(), MemoryStore(), DiskStore(tmp_path / "hidden.bin", lengths)):
        reuse = LowerLayerReuse(model, ROWS, 1, 0, store)
        for rows in ([0, 1, 2, 3], [2], [2, 1], [0, 1, 2, 3]):
            assert_same_as_plain(model, rows, answer_loss_on_lower_layers(model, batch_of(rows), reuse))


def test_layers_below_run_once_a_row_and_the_model_is_left_as_it_was():
    model = staged(layers=[1, 2])
    ran = []
    for number, block in enumerate(model.model.layers):
        block.self_attn.register_forward_hook(lambda module, args, output, number=number: ran.append(number))
    reuse = LowerLayerReuse(model, ROWS, 1, 0, MemoryStore())
    answer_loss_on_lower_layers(model, batch_of([0, 1]), reuse)
    fixed_batches = len({tuple(batch) for batch in map(reuse._fixed_batches.get, (0, 1))})
    assert ran == [0] * fixed_batches + [1, 2]
    answer_loss_on_lower_layers(model, batch_of([0, 1]), reuse)
    assert ran == [0] * fixed_batches + [1, 2, 1, 2]
    ran.clear()
    answer_loss(model, batch_of([0, 1]))
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("stage", [
    LoraStage(method="lora", rank=2, layers=[1, 2], steps=1),
    LoraStage(method="lora", rank=2, layers=[2], positions="l2", steps=1),
    JointStage(method="joint", lora={"rank": 2, "layers": [1]}, reft={"rank": 2, "layers": [1, 2]}, steps=1),
])  # fmt: skip
def test_layers_below_the_first_weights_that_train_are_skipped_too(stage):
    model = tiny.tiny_model()
    shake(model, attach(model, "a", stage).names)
    assert first_edited_layer(model) == min(stage.layers if stage.method == "lora" else stage.lora.layers)
    reuse = LowerLayerReuse(model, ROWS, first_edited_layer(model), 0, MemoryStore())
    for rows in ([0, 1, 2, 3], [2, 1]):
        assert_same_as_plain(model, rows, answer_loss_on_lower_layers(model, batch_of(rows), reuse))


@pytest.mark.parametrize("stage", [
    LoraStage(method="lora", steps=1),
    JointStage(method="joint", reft={"layers": [2]}, steps=1),
    ReftStage(**REFT, layers=[0, 2]),
])  # fmt: skip
def test_it_does_not_apply_where_the_first_layer_trains(stage):
    model = tiny.tiny_model()
    attach(model, "a", stage)
    assert first_edited_layer(model) is None


@pytest.mark.parametrize("config", [
    XLNetConfig(vocab_size=259, d_model=32, n_layer=3, n_head=4, d_inner=64, dropout=0.0, summary_last_dropout=0.0),
    XLMConfig(vocab_size=259, emb_dim=32, n_layers=3, n_heads=4, dropout=0.0, attention_dropout=0.0),
], ids=["tokens first", "no list of blocks"])  # fmt: skip
def test_it_does_not_apply_to_a_lora_of_blocks_that_cannot_be_edited(config):
    model = AutoModelForCausalLM.from_config(config)
    assert attach(model, "a", LoraStage(method="lora", rank=2, steps=1)).names == ["a"]
    assert not has_dropout(model)
    assert first_edited_layer(model) is None


def test_it_does_not_apply_where_embeddings_of_tokens_train():
    model = tiny.tiny_model()
    config = LoraConfig(r=2, layers_to_transform=[2], target_modules=["q_proj"], trainable_token_indices=[5])
    inject(model, "a", config)
    train_only(model, ["a"])
    assert first_edited_layer(model) is None
