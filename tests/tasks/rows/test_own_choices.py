"""Choices that a row has of its own, and which of them an answer is."""

import re

import pytest

from heft.errors import HeftError
from heft.tasks.rows import Rows, RowsSettings
from heft.tasks.rows.own_choices import Names, OwnChoices, choices_in_column, choices_in_columns

LABELLED = OwnChoices(["B", "1", "iron"], ["A", "B", "3"], Names.LABELS)
LIST = OwnChoices(["wood", "iron", "1"], ["A", "B", "C"], Names.LETTERS)


@pytest.mark.parametrize(
    ("choices", "answer", "gold"),
    [
        (LABELLED, "B", 1),  # the label, not the text
        (LABELLED, "1", 1),
        (LABELLED, 3, 2),
        (LABELLED, " iron ", 2),
        (LIST, "iron", 1),
        (LIST, "b", 1),
        (LIST, 0, 0),
        (LIST, "1", 2),  # text, since an index in a list is a number
    ],
)
def test_an_answer_is_a_label_a_text_a_letter_or_an_index(choices, answer, gold):
    assert choices.gold(answer) == gold


def test_a_name_that_label_names_made_comes_before_texts():
    choices = OwnChoices(["B", "A"], ["A", "B"], Names.LETTERS)
    with pytest.raises(HeftError, match=re.escape("could mean 'B' (letter A) and 'A' (letter B)")):
        choices.gold("A")
    assert choices.gold("A", is_name=True) == 0


@pytest.mark.parametrize(
    ("choices", "answer", "told"),
    [
        (LABELLED, "C", "must be the text of exactly one choice or one of the labels A, B, 3"),
        (LABELLED, 0, "answer 0 must be the text of exactly one choice or one of the labels A, B, 3"),
        (LABELLED, None, "answer null must be"),
        (LIST, "D", "must be the text of exactly one choice, its letter or an index from 0"),
        (LIST, 3, "answer must be an index from 0 to 2 or the text of a choice; got 3"),
        (LIST, 1, "answer 1 is the index of 'iron', counted from 0, and the text of another choice"),
        (LIST, None, "answer must be an index from 0 to 2 or the text of a choice; got null"),
    ],
)
def test_what_is_none_of_them_is_refused_with_what_was_expected(choices, answer, told):
    with pytest.raises(HeftError, match=re.escape(told)):
        choices.gold(answer)


@pytest.mark.parametrize(
    ("value", "texts", "names", "of"),
    [
        (["x", "y"], ["x", "y"], ["A", "B"], Names.LETTERS),
        ({"text": ["x", "y"], "label": [1, 2]}, ["x", "y"], ["1", "2"], Names.LABELS),
        ({"A": "x", "B": "y", "C": None}, ["x", "y"], ["A", "B"], Names.LABELS),
        ({"text": "x", "label": "y"}, ["x", "y"], ["text", "label"], Names.LABELS),
    ],
)
def test_one_column_holds_a_list_or_an_object(value, texts, names, of):
    assert choices_in_column({"c": value}, "c") == OwnChoices(texts, names, of)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("x, y", "c must be a list; got 'x, y'"),
        (["x"], "c must have at least 2 options; got 1"),
        ({}, "c must have at least 2 options; got 0"),
        ({"text": ["x", "y"], "label": ["A"]}, "c must have a label of its own for each choice"),
        ({"text": ["x", "y"], "label": ["A", "A"]}, "c must have a label of its own for each choice"),
        ({"text": ["x", "y"], "label": ["A", None]}, "c must have a label of its own for each choice"),
        ({"A": "x", "B": 2}, 'c must be texts that are not empty; got 2; if this is its text, put it in quotes: "2"'),
    ],
)
def test_what_are_no_choices_is_refused(value, told):
    with pytest.raises(HeftError, match=re.escape(told)):
        choices_in_column({"c": value}, "c")


def test_a_column_of_several_may_hold_a_list():
    row = {"right": "x", "wrong": ["y", "z"]}
    assert choices_in_columns(row, ["right", "wrong"]).texts == ["x", "y", "z"]
    with pytest.raises(HeftError, match="wrong must have at least 1 options; got 0"):
        choices_in_columns({**row, "wrong": []}, ["right", "wrong"])


def test_a_column_of_choices_that_no_row_has_is_a_fault_of_the_settings():
    settings = RowsSettings(train=[{"q": "x", "a": "y"}], prompt="{q} {w}", answer="a.b", choices="option")
    assert Rows(settings).setting_faults() == {
        "prompt": "there is no column 'w' in the rows; known here: a, q",
        "answer": "there is no column 'a.b' in the rows; known here: a, q",
        "choices": "there is no column 'option' in the rows; known here: a, q",
    }
