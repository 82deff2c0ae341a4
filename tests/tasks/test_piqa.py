"""PIQA."""

import pytest

from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.piqa import Piqa, PiqaSettings

ROW = {"goal": "dry a shirt", "sol1": "Hang it in the sun. ", "sol2": "Put it in water.", "label": 0}


def test_letters_prompt():
    example = Piqa(PiqaSettings()).example(ROW)
    assert example.prompt == (
        "Goal: dry a shirt\nWhich way reaches the goal?\nA. Hang it in the sun.\nB. Put it in water.\nAnswer:"
    )
    assert (example.choices, example.gold) == ((" A", " B"), 0)


def test_cloze_prompt_and_choices():
    example = Piqa(PiqaSettings(format="cloze")).example(ROW)
    assert example.prompt == "Question: dry a shirt\nAnswer:"
    assert (example.choices, example.gold) == ((" Hang it in the sun.", " Put it in water."), 0)


def test_solutions_to_one_goal_share_a_group():
    task = Piqa(PiqaSettings())
    first, second, other = (
        task.example({**ROW, **change}) for change in ({}, {"sol1": "Iron it."}, {"goal": "wet a shirt"})
    )
    assert first.group == second.group != other.group


def test_a_label_as_text_is_refused(rows_folder):
    with pytest.raises(HeftError, match="label must be a whole number; got '0'"):
        load_examples(PiqaSettings(source=rows_folder([{**ROW, "label": "0"}])), "eval")


def test_the_real_validation_rows_are_1838_of_which_928_have_the_second_solution(shared_folder):
    examples = load_examples(PiqaSettings(source=shared_folder("piqa")), "eval")
    assert (len(examples), sum(example.gold for example in examples)) == (1838, 928)
