"""transformers' Trainer gives the losses of one row a pass, or says what to pass."""

import pickle

import pytest
import torch
from transformers import DataCollatorWithFlattening

from calls.examples import examples, independent_loss, labelled_rows, smoothed_loss
from calls.trainers import first_loss, padding, trainer_of
from heft.reft import with_prompt_lengths
from reft.support import with_reft

TOLERANCE = 2e-6  # four float32 roundings of a loss of about 5.5 (2**-21 each)
POSITIONS = ["l2", "f2+l2", pytest.param("l2+", marks=pytest.mark.long), "lora l2"]


def sum_of_losses(outputs, labels, num_items_in_batch=None) -> torch.Tensor:
    """Mean of −ln p over the labelled tokens, as a person might write it for `compute_loss_func`."""
    return torch.nn.functional.cross_entropy(
        outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", [*POSITIONS, "all"])
def test_a_trainers_loss_is_that_of_one_row_a_pass_on_either_padding_side(side, positions, tmp_path, monkeypatch):
    model = with_reft(positions=positions)
    expected = independent_loss(model, examples())
    trainer = trainer_of(model, tmp_path, padding(side))
    assert first_loss(trainer, monkeypatch) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_trainers_loss_is_the_same_with_gradient_checkpointing(use_reentrant, tmp_path, monkeypatch):
    model = with_reft(positions="f2+l2")
    expected = independent_loss(model, examples())
    more = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": use_reentrant}}
    assert first_loss(trainer_of(model, tmp_path, **more), monkeypatch) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("positions", [*POSITIONS, "all"])
@pytest.mark.parametrize("with_bounds", [False, True])
def test_flattened_batches_edit_each_sequences_own_positions(positions, with_bounds, tmp_path, monkeypatch):
    model = with_reft(positions=positions)
    expected = independent_loss(model, examples())
    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=with_bounds)
    assert first_loss(trainer_of(model, tmp_path, collator), monkeypatch) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("positions", POSITIONS)
def test_label_smoothing_without_prompt_lengths_is_refused_and_says_what_to_pass(positions, tmp_path):
    trainer = trainer_of(with_reft(positions=positions), tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match=r"data_collator=heft\.reft\.with_prompt_lengths\(data_collator\)"):
        trainer.train()


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("collator", [padding("left"), padding("right"), DataCollatorWithFlattening()])
def test_label_smoothing_with_prompt_lengths_has_the_loss_by_hand(positions, collator, tmp_path, monkeypatch):
    model = with_reft(positions=positions)
    expected = smoothed_loss(model, examples(), 0.1)
    trainer = trainer_of(model, tmp_path, with_prompt_lengths(collator), label_smoothing_factor=0.1)
    assert first_loss(trainer, monkeypatch) == pytest.approx(expected, abs=TOLERANCE)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_loss_function_of_ones_own_needs_prompt_lengths_and_then_has_the_same_loss(positions, tmp_path, monkeypatch):
    model = with_reft(positions=positions)
    expected = independent_loss(model, examples())
    with pytest.raises(ValueError, match="neither labels nor prompt_lengths reach the model"):
        trainer_of(model, tmp_path, compute_loss_func=sum_of_losses).train()
    trainer = trainer_of(model, tmp_path, with_prompt_lengths(padding()), sum_of_losses)
    assert first_loss(trainer, monkeypatch) == pytest.approx(expected, abs=TOLERANCE)


def test_edits_of_all_tokens_need_no_prompt_lengths(tmp_path, monkeypatch):
    model = with_reft(positions="all")
    trainer = trainer_of(model, tmp_path, label_smoothing_factor=0.1)
    assert first_loss(trainer, monkeypatch) == pytest.approx(smoothed_loss(model, examples(), 0.1), abs=TOLERANCE)


@pytest.mark.parametrize("collator", [padding("left"), padding("right"), DataCollatorWithFlattening()])
def test_the_collator_adds_each_sequences_prompt_length_and_survives_a_pickle(collator):
    wrapped = pickle.loads(pickle.dumps(with_prompt_lengths(collator)))
    assert wrapped(labelled_rows())["prompt_lengths"].tolist() == [len(prompt) for prompt, _ in examples()]
    assert hasattr(wrapped, "tokenizer") == hasattr(collator, "tokenizer")


def test_the_collator_says_that_a_batch_has_no_labels():
    rows = [{"input_ids": row["input_ids"]} for row in labelled_rows()]
    with pytest.raises(ValueError, match="this batch has input_ids, attention_mask"):
        with_prompt_lengths(lambda features: {"input_ids": features, "attention_mask": features})(rows)
