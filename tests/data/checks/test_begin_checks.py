"""Begin tokens where they do not belong, in training and in evaluation rows."""

import pytest
from encoding import chosen, generated

import tiny
from heft.data.checks.labels import double_bos

TOKENIZER = tiny.byte_tokenizer()
GOOD = [generated("What is it?", " a tree"), generated("<bos>Q<bos>"), chosen("Is it one?")]


def found(train, evaluation=GOOD, tokenizer=TOKENIZER) -> str:
    return "".join(fault.found for fault in double_bos(train, evaluation, tokenizer))


def test_nothing_is_found_in_rows_that_begin_once_or_not_at_all():
    assert found(GOOD) == ""


@pytest.mark.parametrize("row", [generated("<bos><bos>Q"), generated("Q", " <bos>a"), chosen("Q", ("<bos>a", "no"))])
def test_a_begin_token_twice_at_the_start_or_in_the_answer_is_found_in_either_split(row):
    assert found([row, *GOOD]).startswith("1 of 4 train rows have the BOS token twice at their start, or in their")
    assert found(GOOD, [*GOOD, row]).startswith("1 of 4 eval rows have the BOS token twice at their start, or in")
    both = found([row], [row, *GOOD])
    assert "1 of 1 train rows have" in both
    assert "; 1 of 4 eval rows have" in both


def test_a_wrong_choice_counts_where_it_is_scored_and_not_where_it_is_not_trained_on():
    row = chosen("Q", ("<bos>a", "no"), gold=1)
    assert found([row]) == ""
    assert found(GOOD, [row]).startswith("1 of 1 eval rows")


def test_one_token_that_begins_and_ends_may_stand_in_an_answer():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token
    assert found(GOOD, tokenizer=tokenizer) == ""
    assert found([generated("<eos><eos>Q")], tokenizer=tokenizer).startswith("1 of 1 train rows")


def test_a_tokenizer_without_a_begin_token_has_none_twice():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.bos_token = None
    assert found([generated("<bos><bos>Q")], tokenizer=tokenizer) == ""
