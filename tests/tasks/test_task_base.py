"""Examples: the promises of every part, and ids that come from the content."""

import hashlib
import json

import pytest

from heft.errors import HeftError
from heft.tasks.base import TaskSettings, field_faults, index_among
from heft.tasks.boolq import Boolq, BoolqSettings
from heft.tasks.choices import options_example
from heft.tasks.example import Example, choice_example, generation_example
from heft.tasks.piqa import PiqaSettings


def test_id_is_the_start_of_the_sha256_of_name_prompt_choices_and_gold():
    content = json.dumps(["t", "Q?", [" a", " b"], 1]).encode()
    assert choice_example("t", "Q?", ("a", "b"), 1).id == hashlib.sha256(content).hexdigest()[:16]


def test_id_changes_with_each_part_of_the_content():
    base = ("t", "Q?", ("a", "b"), 1)
    changed = [("u", *base[1:]), ("t", "R?", *base[2:]), ("t", "Q?", ("a", "c"), 1), ("t", "Q?", ("a", "b"), 0)]
    ids = {choice_example(*parts).id for parts in [base, *changed]}
    assert len(ids) == 5
    assert generation_example("t", "Q?", " x", "x").id != generation_example("t", "Q?", " y", "y").id


def test_group_is_equal_for_equal_texts_only():
    first, second, other = (choice_example("t", prompt, "ab", 0, group) for prompt, group in ("1p", "2p", "3r"))
    assert first.group == second.group != other.group
    assert choice_example("t", "1", "ab", 0).group is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"prompt": "Q: "}, "ends without whitespace"),
        ({"prompt": ""}, "ends without whitespace"),
        ({"choices": ("a", " b"), "answer": "a"}, "begin with whitespace"),
        ({"choices": (" ", " b"), "answer": " "}, "not be empty"),
        ({"gold": 2}, "gold must be an index into 2 choices"),
        ({"answer": " b"}, "answer that choice"),
        ({"choices": (), "gold": None}, "needs a target"),
        ({"options": ("one",)}, "as many options as choices; got 1 and 2"),
    ],
)
def test_an_example_that_breaks_a_promise_is_refused(change, fault):
    sound = {"id": "0", "prompt": "Q:", "choices": (" a", " b"), "gold": 0, "answer": " a"}
    assert Example(**sound).gold == 0
    with pytest.raises(HeftError, match=fault):
        Example(**{**sound, **change})


@pytest.mark.parametrize("choice_format", ["letters", "cloze"])
def test_a_question_is_its_text_its_options_and_the_right_one_in_every_format(choice_format):
    example = options_example("t", choice_format, "Where?", "Where?", ("here", "there"), 1)
    question, options, right = example.asked
    assert (question, [o.strip() for o in options], right.strip()) == ("Where?", ["here", "there"], "there")
    assert generation_example("t", "Where?", " here", "here").asked == ("Where?", (), " here")


def test_every_faulty_field_is_named_with_what_was_expected():
    fields = {"question": str, "passage": str, "answer": bool, "label": int}
    faults = field_faults({"passage": " ", "answer": "yes", "label": True}, fields)
    assert faults == [
        "question is missing (the row has passage, answer, label)",
        "passage is empty",
        "answer must be true or false; got 'yes'",
        "label must be a whole number; got true",
    ]


def test_a_value_outside_the_allowed_ones_is_refused():
    assert index_among({"label": "2"}, "label", ("1", "2")) == 1
    with pytest.raises(HeftError, match="label must be one of 0, 1; got -1"):
        index_among({"label": -1}, "label", (0, 1))


def test_choice_tasks_refuse_to_judge_generated_text():
    task = Boolq(BoolqSettings())
    example = task.example({"question": "is it", "passage": "It is.", "answer": True})
    with pytest.raises(TypeError, match="likelihood"):
        task.is_correct(example, " yes")
    with pytest.raises(TypeError, match="likelihood"):
        task.prediction(" yes")


def test_wheel_is_refused_for_tasks_that_have_none_and_limits_below_one_are_too():
    assert BoolqSettings(source="wheel").source == "wheel"
    with pytest.raises(HeftError, match="this task has no source .wheel.; expected hub"):
        PiqaSettings(source="wheel")
    with pytest.raises(HeftError, match="a whole number of at least 1"):
        PiqaSettings(eval_limit=0)


def test_every_setting_of_all_tasks_has_a_description():
    from heft.tasks import TASKS

    described = {name: task.settings_type.model_fields for name, task in TASKS.items()} | {
        "common": TaskSettings.model_fields
    }
    missing = [
        f"{task}.{name}"
        for task, fields in described.items()
        for name, field in fields.items()
        if not field.description
    ]
    assert missing == []
