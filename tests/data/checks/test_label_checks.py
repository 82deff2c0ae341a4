"""What is found in single training rows: labels, padding, EOS tokens."""

from dataclasses import replace

import pytest
from encoding import chosen, generated, tokenizer_that_drops, tokenizer_that_pads_with_the_end

import tiny
from heft.data.checks import labels
from heft.data.checks.labels import label_faults
from heft.data.encode import training_batch

TOKENIZER = tiny.byte_tokenizer()
PAD, BOS, EOS = 0, 1, 2
GOOD = [generated("What is it?", " a tree"), generated("And this?", " a stone that is longer"), chosen("Is it one?")]


def found(rows, tokenizer=TOKENIZER) -> dict[str, str]:
    return {fault.check: fault.found for fault in label_faults(rows, tokenizer, EOS)}


def test_nothing_is_found_in_rows_that_are_right_whatever_the_length_and_the_order():
    many = [generated("Q" * n, " " + "a" * (n % 7 + 1)) for n in range(1, 150)]
    for rows in (GOOD, GOOD[::-1], many, many[::-1]):
        assert found(rows) == {}


def test_an_end_token_that_pads_is_no_fault_since_padding_comes_from_lengths():
    tokenizer = tokenizer_that_pads_with_the_end()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == EOS
    rows = [generated("Q" * n, " yes", tokenizer) for n in (1, 5, 30)]
    assert found(rows, tokenizer) == {}


def test_masking_every_padding_id_hides_an_eos_token_that_pads_and_is_found(monkeypatch):
    def masking_by_id(rows, pad_id):
        batch = training_batch(rows, pad_id)
        batch["attention_mask"] = (batch["input_ids"] != pad_id).long()
        return batch

    monkeypatch.setattr(labels, "training_batch", masking_by_id)
    tokenizer = tokenizer_that_pads_with_the_end()
    rows = [generated("Q" * n, " yes", tokenizer) for n in (1, 5)]
    assert found(rows, tokenizer)["pad_trained"].startswith("2 of 2 train rows train on padding")
    assert found(rows) == {}  # with a padding token of its own the mask is right


def test_a_batch_that_drops_the_labels_of_every_padding_id_is_found(monkeypatch):
    def dropping_by_id(rows, pad_id):
        batch = training_batch(rows, pad_id)
        batch["labels"] = batch["labels"].masked_fill(batch["input_ids"] == pad_id, -100)
        return batch

    monkeypatch.setattr(labels, "training_batch", dropping_by_id)
    tokenizer = tokenizer_that_pads_with_the_end()
    assert found([generated(tokenizer=tokenizer)], tokenizer).keys() == {"pad_trained", "end_missing"}


@pytest.mark.parametrize("tokenizer", [TOKENIZER, tokenizer_that_pads_with_the_end()], ids=["pad", "end pads"])
@pytest.mark.parametrize("end", [(EOS, EOS), (EOS, 70, EOS)], ids=["doubled", "in the middle"])
def test_an_end_token_before_the_end_of_an_answer_is_found(tokenizer, end):
    row = generated()
    assert found([*GOOD, replace(row, answer=row.answer[:-1] + end)], tokenizer).keys() == {"pad_trained"}


@pytest.mark.parametrize("tokenizer", [TOKENIZER, tokenizer_that_pads_with_the_end()], ids=["pad", "end pads"])
def test_an_end_token_inside_a_choice_that_is_trained_on_is_found(tokenizer):
    assert found([chosen("Q:", ("x <eos> z", "no")), *GOOD], tokenizer).keys() == {"pad_trained"}
    assert found([chosen("Q:", ("x <eos> z", "no"), gold=1), *GOOD], tokenizer) == {}


def test_a_padding_token_in_an_answer_is_found_and_in_a_prompt_it_is_none():
    assert found([generated("Q:", " a <pad> b"), *GOOD]).keys() == {"pad_trained"}
    assert found([chosen("Q:", ("<pad>", "no")), *GOOD]).keys() == {"pad_trained"}
    assert found([generated("Q: <pad>?", " a"), *GOOD]) == {}


def test_a_choice_that_ends_in_the_token_that_pads_is_found():
    row = chosen()
    ended = replace(row, answer=(*row.answer, EOS))
    assert found([ended], tokenizer_that_pads_with_the_end()).keys() == {"pad_trained"}
    assert found([ended]) == {}


def test_an_answer_without_tokens_has_no_label():
    tokenizer = tokenizer_that_drops(" yes")
    rows = [chosen(tokenizer=tokenizer), chosen(gold=1, tokenizer=tokenizer)]
    assert [row.answer for row in rows] == [(), tuple(TOKENIZER(" no")["input_ids"])]
    assert found(rows, tokenizer).keys() == {"no_labels"}
    assert found(rows, tokenizer)["no_labels"].startswith("1 of 2 train rows have no label")


def test_a_prompt_of_special_tokens_alone_is_trained_on_whole():
    assert found([generated("<bos>"), *GOOD]).keys() == {"all_labels"}
    assert found([generated("<bos>Q"), generated("Q"), *GOOD]) == {}


def test_a_generated_answer_without_its_end_is_found_and_a_choice_needs_none():
    row = generated()
    assert found([replace(row, answer=row.answer[:-1]), *GOOD]).keys() == {"end_missing"}
    assert found([chosen()]) == {}


def test_a_fault_names_a_row_with_control_characters_escaped():
    message = label_faults([generated("\x1b[31mQ", " <pad>a")], TOKENIZER, EOS)[0].message([])
    assert "such as '\\x1b[31mQ'" in message
    assert message.endswith("of its own, or set allow: [pad_trained] if this is meant")
