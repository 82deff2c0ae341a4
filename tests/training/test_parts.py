"""Batches in parts: the same loss and gradients, and the cheapest partition."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, strategies
from test_prefix import REFT, ROWS, assert_same_as_plain, batch_of, staged

import tiny
from heft.recipe import ReftStage
from heft.stages import attach
from heft.training import parts
from heft.training.loss import answer_loss_on_lower_layers, answer_loss_on_prefixes
from heft.training.lower import LowerLayerReuse
from heft.training.parts import TOKENS_OF_A_PASS, parts_of_like_length
from heft.training.prefix import PrefixReuse
from heft.training.reuse import plain_loss
from heft.training.stores import MemoryStore, NoStore

CPU = torch.device("cpu")


def cost(lengths, chosen):
    return sum(TOKENS_OF_A_PASS + len(part) * max(lengths[row] for row in part) for part in chosen)


@given(strategies.lists(strategies.integers(1, 400), max_size=6))
def test_no_partition_costs_less(lengths):
    chosen = parts_of_like_length(lengths, CPU)
    assert sorted(itertools.chain(*chosen)) == list(range(len(lengths)))
    every = (
        [part for part in ([row for row in range(len(lengths)) if label[row] == n] for n in range(6)) if part]
        for label in itertools.product(range(min(4, max(1, len(lengths)))), repeat=len(lengths))
    )
    assert cost(lengths, chosen) <= min(cost(lengths, partition) for partition in every)


def test_rows_of_one_length_and_rows_on_an_accelerator_stay_together():
    assert parts_of_like_length([30] * 16, CPU) == [list(range(16))]
    assert parts_of_like_length([500, 20, 20], torch.device("cuda")) == [[0, 1, 2]]
    assert parts_of_like_length([], torch.device("cuda")) == []


@pytest.fixture
def free_passes(monkeypatch):
    """As if a further pass cost nothing, so that the short rows of these tests are split."""
    monkeypatch.setattr(parts, "TOKENS_OF_A_PASS", 0)


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_a_split_batch_has_the_loss_and_the_gradients_of_the_whole(architecture, free_passes):
    model = staged(architecture, positions="f1+l2")
    widths = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, output: widths.append(output.shape[:2]))
    loss = plain_loss(model)(model, batch_of([0, 1, 2, 3]))
    assert len(widths) == len(set(widths)) == 4
    assert_same_as_plain(model, [0, 1, 2, 3], loss)


def test_prefixes_and_lower_layers_are_computed_in_parts_too(free_passes):
    model = staged()
    for store in (NoStore(), MemoryStore()):
        prefixes = PrefixReuse(model, ROWS, 2, 0, store)
        batch = batch_of([0, 1, 2, 3])
        assert_same_as_plain(model, [0, 1, 2, 3], answer_loss_on_prefixes(model, batch, prefixes))
    model = tiny.tiny_model("llama")
    attach(model, "fine", ReftStage(**REFT, positions="all", layers=[1]))
    lower = LowerLayerReuse(model, ROWS, 1, 0, MemoryStore())
    on_lower = partial(answer_loss_on_lower_layers, reuse=lower)
    for _ in range(2):
        assert_same_as_plain(model, [0, 1, 2, 3], parts.loss_by_parts(on_lower, model, batch_of([0, 1, 2, 3])))
