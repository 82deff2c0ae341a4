"""Passes in pieces, as memory allows: the same loss and gradients as the whole."""

from functools import partial

import pytest
import torch
from test_prefix import ROWS, batch_of, loss_and_gradients, staged
from torch.nn import functional as F

from heft.data import IGNORED
from heft.training.guards import backward_in_parts, rows_without_a_finite_loss
from heft.training.loss import answer_loss, answer_loss_on_lower_layers, answer_loss_on_prefixes
from heft.training.lower import LowerLayerReuse
from heft.training.prefix import PrefixReuse
from heft.training.reuse import plain_loss
from heft.training.stores import MemoryStore, NoStore

SHORT_FIRST = [2, 0, 3, 1]
"""So that most pieces lack the longest row."""


def prefixes(store):
    model = staged(positions="l2")
    return model, partial(answer_loss_on_prefixes, reuse=PrefixReuse(model, ROWS, 2, 0, store))


def lower_layers(store):
    model = staged(positions="f1+l2", layers=[1, 2])
    return model, partial(answer_loss_on_lower_layers, reuse=LowerLayerReuse(model, ROWS, 1, 0, store))


def plain(store):
    model = staged(positions="f1+l2")
    return model, plain_loss(model)


def mean(loss, model, batch):
    return loss(model, batch) / (batch_of(SHORT_FIRST)["labels"] != IGNORED).sum()


def assert_same(model, found, value, gradients):
    """Within 1e-6, which is more than rounding of the mean loss leaves."""
    assert found == pytest.approx(value, abs=1e-6)
    for name, gradient in gradients.items():
        assert torch.allclose(model.get_parameter(name).grad, gradient, rtol=0, atol=1e-6), name


@pytest.mark.parametrize("store", [NoStore, MemoryStore])
@pytest.mark.parametrize("losses", [plain, prefixes, lower_layers])
def test_in_pieces_a_batch_has_the_loss_and_the_gradients_of_the_whole(losses, store):
    model, loss = losses(store())

    def step(batch):
        value = mean(loss, model, batch)
        value.backward()
        return value.detach()

    unhalved = mean(partial(answer_loss, edits_prompt=True), model, batch_of(SHORT_FIRST))
    whole = loss_and_gradients(model, unhalved)
    trained = [p for p in model.parameters() if p.requires_grad]
    for pieces in (1, 2, len(SHORT_FIRST)):
        model.zero_grad()
        value, _ = backward_in_parts(step, batch_of(SHORT_FIRST), trained, pieces, print)
        assert_same(model, value.item(), *whole)


@pytest.mark.parametrize("losses", [plain, prefixes, lower_layers])
def test_columns_in_which_all_rows_are_padded_change_nothing(losses):
    model, loss = losses(NoStore())
    batch = batch_of(SHORT_FIRST)
    whole = loss_and_gradients(model, mean(loss, model, batch))
    for key, value in (("input_ids", 0), ("attention_mask", 0), ("position_ids", 0), ("labels", IGNORED)):
        batch[key] = F.pad(batch[key], (3, 0), value=value)
    value, _ = loss_and_gradients(model, mean(loss, model, batch))
    assert_same(model, value, *whole)


@pytest.mark.parametrize("losses", [plain, prefixes, lower_layers])
def test_a_row_without_a_finite_loss_is_found_among_longer_ones(losses):
    model, loss = losses(NoStore())

    def spoiled(model, batch):
        return loss(model, batch) + (torch.nan if 3 in batch["row_ids"].tolist() else 0.0)

    assert rows_without_a_finite_loss(model, spoiled, [batch_of(SHORT_FIRST)]) == [3]
