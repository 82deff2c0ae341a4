"""Batches in length buckets: the same loss and gradients as whole."""

from functools import partial

import pytest
from test_prefix import REFT, ROWS, assert_same_as_plain, batch_of, staged

import tiny
from heft.adapters.attach import attach
from heft.recipe.recipe import ReftStage
from heft.training import loss as losses
from heft.training.loss import plain_loss
from heft.training.reuse import activation_cache as kept
from heft.training.reuse.lower_layers import LowerLayerReuse, answer_loss_on_lower_layers
from heft.training.reuse.prefix import PrefixReuse, answer_loss_on_prefixes
from heft.training.reuse.stores import MemoryStore, Store


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
