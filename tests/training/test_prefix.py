"""Prefix reuse against the plain path: the same loss, the same gradients, the same training."""

from functools import partial

import pytest
import torch

import tiny
from heft.adapters.attach import adapter_parameters, attach, finish
from heft.data.encode import Encoder, training_batch
from heft.recipe.recipe import JointStage, LoraStage, ReftStage
from heft.tasks.example import generation_example
from heft.training.fused_lora import fused_lora
from heft.training.loss import answer_loss
from heft.training.reuse.facts import edited_suffix
from heft.training.reuse.prefix import PrefixReuse, answer_loss_on_prefixes
from heft.training.reuse.stores import DiskStore, MemoryStore, Store, choose_store, open_store
from tolerance import assert_gradients, rounded

TEXTS = [("A short one:", " yes"), ("Something quite a bit longer than that:", " no it is not"), ("Q?", " 1"),
         ("One that is about as long as that:", " x")]  # fmt: skip
ROWS = Encoder(tiny.byte_tokenizer(), 256)([generation_example("t", p, a, a) for p, a in TEXTS])
REFT = {"method": "reft", "rank": 2, "steps": 1}


def shake(model, names):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model, names).values():
            parameter.add_(0.1 * torch.randn_like(parameter))


def staged(architecture="llama", positions="l2", **options):
    """A model with a frozen LoRA, a frozen ReFT that edits both ends in all layers, and a ReFT that trains."""
    model = tiny.tiny_model(architecture)
    for name, stage in (
        ("coarse", LoraStage(method="lora", rank=2, steps=1)),
        ("earlier", ReftStage(**REFT, positions="f2+l5")),
    ):
        attached = attach(model, name, stage)
        shake(model, attached.names)
        finish(model, attached)
    attached = attach(model, "fine", ReftStage(**REFT, positions=positions, **options))
    shake(model, attached.names)
    return model


def batch_of(rows):
    batch = training_batch([ROWS[i] for i in rows], 0)
    batch["row_ids"] = torch.tensor(rows)
    return batch


def loss_and_gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_same_as_plain(model, rows, loss):
    """The loss and its gradients are those of the plain path on the same rows."""
    fast, gradients = loss_and_gradients(model, loss)
    plain, expected = loss_and_gradients(model, answer_loss(model, batch_of(rows)))
    assert fast == rounded(plain)
    assert_gradients(gradients, expected)


def stores(tmp_path):
    lengths = [len(row.prompt) - 2 for row in ROWS]
    return [Store(), MemoryStore(), DiskStore(tmp_path / "prefixes.bin", lengths)]


@pytest.mark.parametrize("site", ["block", "attention", "mlp"])
@pytest.mark.parametrize("in_place", [False, True], ids=["copied", "in_place"])
@pytest.mark.parametrize("architecture", tiny.of_each_kind())
def test_loss_and_gradients_are_those_of_the_plain_path(architecture, in_place, site, tmp_path):
    model = staged(architecture, site=site)
    assert edited_suffix(model) == 2
    for store in stores(tmp_path):
        reuse = PrefixReuse(model, ROWS, 2, 0, store, in_place=in_place)
        for rows in ([0, 1, 2, 3], [1, 3], [2], [2, 1], [0, 1, 2, 3]):  # the last time from what was kept
            assert_same_as_plain(model, rows, answer_loss_on_prefixes(model, batch_of(rows), reuse))


def test_the_body_sees_prefixes_once_and_only_suffixes_afterwards():
    model = staged()
    widths = []
    model.model.embed_tokens.register_forward_hook(lambda module, args, output: widths.append(args[0].shape[1]))
    reuse = PrefixReuse(model, ROWS, 2, 0, MemoryStore())
    for _ in range(2):
        answer_loss_on_prefixes(model, batch_of([1, 3]), reuse)
    longest_prefix = max(len(ROWS[i].prompt) for i in (1, 3)) - 2
    suffix = max(len(ROWS[i].answer) for i in (1, 3)) + 2
    assert widths == [longest_prefix, suffix, suffix]


def test_no_gradient_graph_is_kept_for_the_prefix():
    model = staged()
    reuse = PrefixReuse(model, ROWS, 2, 0, MemoryStore())
    cache = reuse.cache([1], [5])
    assert not any(layer.keys.requires_grad or layer.values.requires_grad for layer in cache.layers)


@pytest.mark.parametrize("positions", ["f1", "f1+l2", "all"])
def test_it_does_not_apply_where_the_first_token_is_edited(positions):
    assert edited_suffix(staged(positions=positions)) is None


LORA = {"method": "lora", "rank": 2, "steps": 1, "positions": "l3"}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_a_lora_of_last_positions_trains_on_prefixes_as_on_the_plain_path(architecture, fused):
    """Below it a frozen LoRA of all tokens and edits of both ends; it draws dropout for its own tokens only."""
    model = staged(architecture)
    attached = attach(model, "weights", LoraStage(**LORA))
    shake(model, attached.names)
    assert edited_suffix(model) == 3
    reuse = PrefixReuse(model, ROWS, 3, 0, MemoryStore())
    with fused_lora(model, fused):
        for rows in ([0, 1, 2, 3], [1, 3], [2], [0, 1, 2, 3]):
            assert_same_as_plain(model, rows, answer_loss_on_prefixes(model, batch_of(rows), reuse))


@pytest.mark.parametrize(("lora", "reft", "start"), [("l3", "l2", 3), ("l1+", "l4+", 4)])
def test_both_adapters_of_a_joint_stage_train_on_one_prefix(lora, reft, start):
    model = tiny.tiny_model()
    both = JointStage(method="joint", steps=1, lora={"rank": 2, "positions": lora}, reft={"rank": 2, "positions": reft})
    shake(model, attach(model, "a", both).names)
    assert edited_suffix(model) == start
    reuse = PrefixReuse(model, ROWS, start, 0, MemoryStore())
    assert_same_as_plain(model, [0, 1, 2, 3], answer_loss_on_prefixes(model, batch_of([0, 1, 2, 3]), reuse))


def test_dropout_of_lora_draws_the_same_numbers_with_prefixes_and_without():
    model = tiny.tiny_model()
    shake(model, attach(model, "a", LoraStage(**LORA, dropout=0.5)).names)
    reuse = PrefixReuse(model, ROWS, 3, 0, MemoryStore())
    answer_loss_on_prefixes(model, batch_of([1, 3]), reuse)
    model.train()
    losses = []
    for loss in (answer_loss, partial(answer_loss_on_prefixes, reuse=reuse)):
        torch.manual_seed(1)
        losses.append(loss(model, batch_of([1, 3])).item())
    assert losses[0] == rounded(losses[1])


def test_it_does_not_apply_where_weights_of_all_tokens_train_or_the_model_drops_out():
    model = tiny.tiny_model()
    attach(model, "a", LoraStage(method="lora", steps=1))
    assert edited_suffix(model) is None
    model = tiny.tiny_model()
    attach(model, "a", JointStage(method="joint", reft={"positions": "l2"}, steps=1))
    assert edited_suffix(model) is None
    model = tiny.tiny_model()
    attach(model, "a", JointStage(method="joint", lora={"positions": "l2"}, reft={"positions": "f1"}, steps=1))
    assert edited_suffix(model) is None
    model = tiny.tiny_model("gpt2", attn_pdrop=0.1)
    attach(model, "a", ReftStage(**REFT, positions="l2"))
    assert edited_suffix(model) is None


def test_bytes_of_a_token_are_those_of_keys_and_values_in_every_layer():
    model = staged()
    reuse = PrefixReuse(model, ROWS, 2, 0, MemoryStore())
    config = model.config
    head = config.hidden_size // config.num_attention_heads
    assert reuse.bytes_per_token() == 2 * config.num_hidden_layers * config.num_key_value_heads * head * 4


def test_auto_takes_memory_then_disk_then_nothing(tmp_path, monkeypatch):
    class Free:
        free = 4000

    monkeypatch.setattr("heft.training.reuse.stores.available_memory", lambda: 4000)
    monkeypatch.setattr("heft.training.reuse.stores.shutil.disk_usage", lambda folder: Free)

    def kind(tokens, uses=2, setting="auto"):
        return choose_store(setting, 10 * tokens, uses, tmp_path)

    assert kind(100) == "memory"
    assert kind(101) == "disk"
    assert kind(200) == "disk"
    assert kind(201) == "off"
    assert kind(1, uses=1) == "off"
    assert kind(900, setting="memory") == "memory"
    assert kind(1, setting="off") == "off"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # two processes on one machine fill its memory twice
    assert [kind(50), kind(51), kind(101)] == ["memory", "disk", "off"]


@pytest.mark.parametrize(("kind", "store"), [("off", Store), ("memory", MemoryStore), ("disk", DiskStore)])
def test_a_store_is_of_the_kind_that_was_chosen(kind, store, tmp_path):
    opened = open_store(kind, [3], tmp_path)
    assert type(opened) is store
    assert opened.kind == kind
