"""Batches in length buckets: the same loss and gradients as whole."""

from functools import partial

import pytest
import torch
import transformers
from test_prefix import REFT, ROWS, assert_same_as_plain, batch_of, loss_and_gradients, shake, staged
from transformers import AutoModelForCausalLM

import tiny
from heft.adapters.attach import attach
from heft.data.encode import Encoder, training_batch
from heft.recipe.recipe import ReftStage
from heft.runtime.reporter import Reporter
from heft.tasks.base import generation_example
from heft.training import loss as losses
from heft.training.loss import answer_loss, plain_loss
from heft.training.reuse import activation_cache as kept
from heft.training.reuse.decide import loss_for
from heft.training.reuse.lower_layers import LowerLayerReuse, answer_loss_on_lower_layers
from heft.training.reuse.prefix import PrefixReuse, answer_loss_on_prefixes
from heft.training.reuse.stores import MemoryStore, Store
from tolerance import assert_gradients, rounded


@pytest.fixture
def free_passes(monkeypatch):
    """As if a further pass cost nothing, so that the short rows of these tests are split."""
    for module in (losses, kept):
        monkeypatch.setattr(module, "pass_tokens", lambda device, trains: 0)


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_a_split_batch_has_the_loss_and_the_gradients_of_the_whole(architecture, free_passes):
    model = staged(architecture, positions="f1+l2")
    widths = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: widths.append(output.shape[:2]))
    loss = plain_loss()(model, batch_of([0, 1, 2, 3]))
    assert len(widths) == len(set(widths)) == 4
    assert_same_as_plain(model, [0, 1, 2, 3], loss)


def test_prefixes_and_lower_layers_are_computed_in_parts_too(free_passes):
    model = staged()
    for store in (Store(), MemoryStore()):
        prefixes = PrefixReuse(model, ROWS, 2, 0, store)
        batch = batch_of([0, 1, 2, 3])
        assert_same_as_plain(model, [0, 1, 2, 3], answer_loss_on_prefixes(model, batch, prefixes))
    model = tiny.tiny_model("llama")
    attach(model, "fine", ReftStage(**REFT, positions="all", layers=[1]))
    layers = LowerLayerReuse(model, ROWS, 1, 0, MemoryStore())
    on_lower = partial(answer_loss_on_lower_layers, reuse=layers)
    for _ in range(2):
        assert_same_as_plain(
            model, [0, 1, 2, 3], losses.loss_in_length_buckets(on_lower, model, batch_of([0, 1, 2, 3]))
        )


BART = transformers.BartConfig(
    vocab_size=259, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64, init_std=0.3,
    dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
RWKV = transformers.RwkvConfig(
    vocab_size=259, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32, intermediate_size=64
)


@pytest.mark.parametrize(("config", "positions", "layers", "heard"), [
    (BART, "f1+l2", [1], "layers 0 to 0 skipped"),
    (RWKV, "f1+l2", [1], "layers 0 to 0 skipped"),
    (BART, "l2", "all", "prefixes reused"),
], ids=["BART", "RWKV", "BART, prefixes"])  # fmt: skip
def test_where_padding_matters_what_is_reused_never_stands_beside_any(config, positions, layers, heard, tmp_path):
    """The shortest and the longest row, on which it is tried, are never padded, being too unlike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    stage = ReftStage(**REFT, positions=positions, layers=layers)
    shake(model, attach(model, "fine", stage).names)
    texts = [("Q" * length, " yes" * answers) for length, answers in ((20, 1), (22, 1), (27, 2), (27, 1), (200, 1))]
    rows = Encoder(tiny.byte_tokenizer(), 512)([generation_example("t", p, a, a) for p, a in texts])
    reporter, notes = Reporter(), []
    reporter.note = notes.append
    loss, reuses = loss_for(model, stage, rows, 0, 3, tmp_path, reporter)
    assert reuses
    assert notes[0].startswith(heard)
    batch = training_batch(rows, 0) | {"row_ids": torch.arange(len(rows))}
    for _ in range(2):
        fast, gradients = loss_and_gradients(model, loss(model, batch))
        plain, expected = loss_and_gradients(model, sum(answer_loss(model, training_batch([row], 0)) for row in rows))
        assert fast == rounded(plain)
        assert_gradients(gradients, expected)
