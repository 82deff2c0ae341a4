"""Choices that can never win are found, and only those."""

import pytest
from encoding import chosen, tokenizer_that_drops
from hypothesis import given
from hypothesis import strategies as st

import tiny
from heft.data.checks.choices import also_never_chosen, losers, never_chosen
from heft.data.encode import EncodedExample
from heft.errors import HeftError
from heft.evaluation.evaluator import choice_record, evaluate
from heft.prediction.opening import Answering
from heft.prediction.predict import predict_rows
from heft.recipe.recipe import EvaluationSettings
from heft.tasks.example import choice_example
from heft.tasks.rows import RowsSettings

NONE, TOKENS, BYTES = (EvaluationSettings(normalize=normalize) for normalize in ("none", "tokens", "bytes"))


def test_a_right_choice_that_begins_with_another_can_never_win_without_normalizing():
    rows = [chosen("Are you sure?", ("not", "not sure"), 1), chosen("Where?", ("New York", "Boston"), 0)]
    (fault,) = never_chosen(rows, NONE)
    assert fault.found.startswith("1 of 2 eval rows can never be answered rightly")
    assert "(' not', ' not sure')" in fault.found
    assert "evaluation.normalize to tokens or bytes" in fault.advice
    assert never_chosen(rows, TOKENS) == never_chosen(rows, BYTES) == []


def test_a_wrong_choice_that_can_never_be_chosen_is_a_note_and_no_fault():
    rows = [chosen("Are you sure?", ("not", "not sure"), 0)]
    assert never_chosen(rows, NONE) == []
    assert also_never_chosen(rows, NONE).startswith("a wrong choice that can never be chosen: 1 of 1 eval rows")
    assert also_never_chosen(rows, TOKENS) == ""


def test_of_choices_with_the_same_tokens_only_the_first_can_be_chosen():
    rows = [chosen("Which?", ("a", "b", "a"), 2), chosen("Which?", ("a", "b", "a"), 0)]
    for settings in (NONE, TOKENS, BYTES):
        (fault,) = never_chosen(rows, settings)
        assert fault.found.startswith("1 of 2 eval rows")


def test_by_byte_the_longest_text_of_the_same_tokens_is_the_only_one_that_can_be_chosen():
    row = EncodedExample(choice_example("t", "Q:", ("a", "ab", "b"), 0), (5,), ((6,), (6,), (7,)), (6,), 0)
    assert losers(row, "bytes") == {0}
    assert choice_record(row, [-1.0, -1.0, -9.0], "bytes").prediction == 1
    assert losers(row, "tokens") == {1}


IDS = st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple)


@given(st.lists(IDS, min_size=2, max_size=4), st.sampled_from(["none", "tokens"]), st.data())
def test_no_probabilities_make_a_loser_win_and_others_can(choices, normalize, data):
    names = [str(number) for number in range(len(choices))]
    row = EncodedExample(choice_example("t", "Q:", names, 0), (5,), tuple(choices), choices[0], 0)
    logs = data.draw(st.lists(st.floats(-4, 0), min_size=len(choices), max_size=len(choices)), label="free")
    prefix = {ids[:n]: -0.5 for ids in choices for n in range(1, len(ids) + 1)}
    for ids, log in zip(choices, logs, strict=True):
        prefix[ids] = log  # of the last token, given those before it
    scores = [sum(prefix[ids[:n]] for n in range(1, len(ids) + 1)) for ids in choices]
    assert choice_record(row, scores, normalize).prediction not in losers(row, normalize) or (
        normalize == "none" and len(set(scores)) < len(scores)  # a tie with its own beginning
    )


@pytest.mark.parametrize("answer", [1, 0])
def test_letters_are_never_such_choices(answer):
    letters = chosen("Q:", ("A", "B"), answer, tokenizer=tiny.byte_tokenizer())
    assert losers(letters, "none") == set()


def test_a_choice_without_tokens_is_refused_by_an_evaluation_and_never_wins_as_certain():
    row, model = {"question": "Q", "choices": ["no", "~"], "answer": "no"}, tiny.tiny_model()
    task = RowsSettings(train=[row], eval=[row])
    with pytest.raises(HeftError, match=r"1 of 1 eval rows have a choice without tokens, .*\(' no', ' ~'\)"):
        evaluate(model, tokenizer_that_drops(" ~"), task)
    predicted = Answering(model, tokenizer_that_drops(" ~"), task, NONE)
    with pytest.raises(HeftError, match="have a choice without tokens"):
        predict_rows(predicted, [("rows.jsonl:1", {"question": "Q", "choices": ["no", "~"]})])
