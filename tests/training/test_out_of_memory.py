"""Micro-batches as memory allows: the same loss and gradients as the whole batch."""

from functools import partial

import pytest
import torch
from test_guards import LORA, Trained
from test_guards import plain as unspoiled
from test_prefix import ROWS, batch_of, loss_and_gradients, staged
from torch import nn
from torch.nn import functional as F

from heft.data.encode import IGNORED
from heft.training.guards import rows_without_a_finite_loss
from heft.training.loss import answer_loss, plain_loss
from heft.training.out_of_memory import in_micro_batches
from heft.training.reuse.lower_layers import LowerLayerReuse, answer_loss_on_lower_layers
from heft.training.reuse.prefix import PrefixReuse, answer_loss_on_prefixes
from heft.training.reuse.stores import MemoryStore, Store
from tolerance import assert_gradients, assert_tensors, of_weights, rounded, trained_losses

SHORT_FIRST = [2, 0, 3, 1]
"""So that most micro-batches lack the longest row."""


def prefixes(store):
    model = staged(positions="l2")
    return model, partial(answer_loss_on_prefixes, reuse=PrefixReuse(model, ROWS, 2, 0, store))


def lower_layers(store):
    model = staged(positions="f1+l2", layers=[1, 2])
    return model, partial(answer_loss_on_lower_layers, reuse=LowerLayerReuse(model, ROWS, 1, 0, store))


def plain(store):
    model = staged(positions="f1+l2")
    return model, plain_loss()


def mean(loss, model, batch):
    return loss(model, batch) / (batch_of(SHORT_FIRST)["labels"] != IGNORED).sum()


def assert_same(model, found, value, gradients):
    assert found == rounded(value)
    assert_gradients({name: model.get_parameter(name).grad for name in gradients}, gradients)


@pytest.mark.parametrize("store", [Store, MemoryStore])
@pytest.mark.parametrize("losses", [plain, prefixes, lower_layers])
def test_micro_batches_have_the_loss_and_the_gradients_of_the_whole(losses, store):
    model, loss = losses(store())

    def step(batch):
        value = mean(loss, model, batch)
        value.backward()
        return value.detach()

    unhalved = mean(answer_loss, model, batch_of(SHORT_FIRST))
    whole = loss_and_gradients(model, unhalved)
    trained = [p for p in model.parameters() if p.requires_grad]
    for size in (len(SHORT_FIRST), 2, 1):
        model.zero_grad()
        value = in_micro_batches(step, batch_of(SHORT_FIRST), size, print, trained)
        assert_same(model, value.item(), *whole)


@pytest.mark.parametrize("losses", [plain, prefixes, lower_layers])
def test_columns_in_which_all_rows_are_padded_change_nothing(losses):
    model, loss = losses(Store())
    batch = batch_of(SHORT_FIRST)
    whole = loss_and_gradients(model, mean(loss, model, batch))
    for key, value in (("input_ids", 0), ("attention_mask", 0), ("position_ids", 0), ("labels", IGNORED)):
        batch[key] = F.pad(batch[key], (3, 0), value=value)
    value, _ = loss_and_gradients(model, mean(loss, model, batch))
    assert_same(model, value, *whole)


@pytest.mark.parametrize("losses", [plain, prefixes, lower_layers])
def test_a_row_without_a_finite_loss_is_found_among_longer_ones(losses):
    model, loss = losses(Store())

    def spoiled(model, batch):
        return loss(model, batch) + (torch.nan if 3 in batch["row_ids"].tolist() else 0.0)

    assert rows_without_a_finite_loss(model, spoiled, [batch_of(SHORT_FIRST)]) == [3]


def out_of_memory_above(rows, in_training=True):
    """In training alone or, as in validation, in passes without gradients alone."""

    def spoil(loss, batch):
        if len(batch["input_ids"]) > rows and torch.is_grad_enabled() == in_training:
            raise torch.OutOfMemoryError("CUDA out of memory")  # after dropout has drawn its numbers
        return loss

    return spoil


@pytest.mark.parametrize(("room", "said"), [(2, [2]), (1, [2, 1]), (4, [])])
def test_out_of_memory_halves_the_micro_batch_and_takes_the_same_step(monkeypatch, room, said):
    with monkeypatch.context() as patched:
        short = Trained(patched, out_of_memory_above(room), steps=4)
    whole = Trained(monkeypatch, unspoiled, steps=4)
    assert short.error is None
    notes = [note for note in short.notes.said if "out of memory" in note]
    assert notes == [f"s: out of memory in training: micro-batch reduced to {n} (batch size stays 4)" for n in said]
    for one, other in zip(short.notes.values, whole.notes.values, strict=True):
        assert one["loss"] == trained_losses(other["loss"], LORA["learning_rate"], 4)
    assert_tensors(short.tensors, whole.tensors, of_weights(LORA["learning_rate"], 4))


def test_gradients_that_a_failed_pass_left_are_taken_back():
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.full((3,), 5.0)
    values = torch.arange(12.0).view(4, 3)
    batch = {"input_ids": values, "attention_mask": torch.ones(4, 3)}
    halved = []

    def step(part):
        loss = (part["input_ids"] * weight).sum()
        loss.backward()
        if len(part["input_ids"]) > 2:
            raise torch.OutOfMemoryError
        return loss.detach()

    loss = in_micro_batches(step, batch, 4, halved.append, [weight])
    assert (loss.item(), halved) == (values.sum().item(), [2])
    assert torch.equal(weight.grad, 5.0 + values.sum(0))


def test_no_room_for_one_row_is_an_error_with_a_way_out(monkeypatch):
    run = Trained(monkeypatch, out_of_memory_above(0), steps=2)
    assert "does not suffice for a single row; lower task.max_length" in str(run.error)


def test_with_dropout_a_halved_step_is_the_step_of_as_many_micro_batches(monkeypatch):
    with monkeypatch.context() as patched:
        short = Trained(patched, out_of_memory_above(1), steps=3, dropout=0.3)
    small = Trained(monkeypatch, unspoiled, steps=3, dropout=0.3, micro_batch_size=1)
    assert_tensors(short.tensors, small.tensors, of_weights(LORA["learning_rate"], 3))


def test_another_error_of_a_pass_is_not_taken_for_it():
    def step(batch):
        raise RuntimeError("the sizes differ")

    with pytest.raises(RuntimeError, match="the sizes differ"):
        in_micro_batches(step, batch_of([0, 1]), 2, print)


def test_a_resumed_stage_does_not_run_out_of_memory_again(monkeypatch):
    settings = {"steps": 4, "dropout": 0.3, "holdout": 0.4, "evaluate_every": 2}
    with monkeypatch.context() as patched:
        whole = Trained(patched, out_of_memory_above(1, in_training=False), **settings)
    for step, start in whole.kept.items():
        with monkeypatch.context() as patched:
            again = Trained(patched, out_of_memory_above(1, in_training=False), start=start, **settings)
        said = [note for note in again.notes.said if "out of memory" in note]
        assert bool(said) == (step == 1)  # the first evaluation comes after step 2
        assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in whole.tensors.items())


@pytest.mark.parametrize(("room", "said"), [(2, [2]), (1, [2, 1]), (4, [])])
def test_out_of_memory_in_validation_halves_its_micro_batches(monkeypatch, room, said):
    settings = {"steps": 4, "holdout": 0.4, "evaluate_every": 1}
    with monkeypatch.context() as patched:
        short = Trained(patched, out_of_memory_above(room, in_training=False), **settings)
    whole = Trained(monkeypatch, unspoiled, **settings)
    notes = [note for note in short.notes.said if "out of memory" in note]
    assert notes == [f"s: out of memory in validation: micro-batch reduced to {n}" for n in said]
    for one, other in zip(short.notes.values, whole.notes.values, strict=True):
        assert one.pop("stage") == other.pop("stage")
        assert one == trained_losses(other, LORA["learning_rate"], 4)


@pytest.mark.parametrize("room", [2, 1])
def test_activations_to_cache_are_computed_in_halves_where_memory_runs_out(room, monkeypatch):
    for losses in (prefixes, lower_layers):
        model, loss = losses(MemoryStore())
        passes = []

        def watched(module, args, options, passes=passes):
            rows = len(options["input_ids"])
            if not torch.is_grad_enabled():
                passes.append(rows)
                if rows > room:
                    raise torch.OutOfMemoryError

        monkeypatch.setattr(
            "heft.training.reuse.activation_cache.pass_tokens", lambda device, trains: None
        )  # all rows in one company
        model.get_decoder().register_forward_pre_hook(watched, with_kwargs=True)
        whole = loss_and_gradients(model, mean(plain_loss(), model, batch_of(SHORT_FIRST)))
        value, _ = loss_and_gradients(model, mean(loss, model, batch_of(SHORT_FIRST)))
        assert_same(model, value, *whole)
        assert passes[0] > room
        assert sum(rows for rows in passes if rows <= room) == passes[0]
