"""Every task can ask about a row without its answer, and asks the same question as with it."""

import pytest

from heft.errors import HeftError
from heft.tasks import TASKS
from heft.tasks.example import without_answer

CHOICES = {"text": ["one", "two", "three"], "label": ["A", "B", "C"]}
ROWS = {
    "boolq": {"question": "is it", "passage": "It is.", "answer": True},
    "arc_easy": {"question": "Which?", "choices": CHOICES, "answerKey": "B"},
    "openbookqa": {"question_stem": "It is", "choices": CHOICES, "answerKey": "C"},
    "piqa": {"goal": "Open a tin", "sol1": "knife", "sol2": "opener", "label": 1},
    "siqa": {"context": "c", "question": "q?", "answerA": "a", "answerB": "b", "answerC": "d", "label": "2"},
    "hellaswag": {"ctx": "He", "endings": ["runs", "sits", "eats", "is"], "label": "0"},
    "winogrande": {"sentence": "It _ is.", "option1": "a", "option2": "b", "answer": "1"},
    "gsm8k": {"question": "One and one?", "answer": "Two. #### 2"},
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_without_its_answer_asks_the_same(name):
    task = TASKS[name](TASKS[name].settings_type())
    row = ROWS[name]
    example, question = task.example(row), task.question(row)
    bare = {key: value for key, value in row.items() if key != task.answer_field}
    assert bare != row
    assert task.question_faults(bare) == []
    assert task.row_faults(bare) != []
    assert task.question(bare) == question
    assert not question.answered
    assert question.gold is question.target is None
    same = ("prompt", "choices", "group", "question", "options")
    assert [getattr(question, key) for key in same] == [getattr(example, key) for key in same]


def test_a_generated_row_asks_without_its_answer():
    task = TASKS["whereabouts"](TASKS["whereabouts"].settings_type())
    (_, row) = next(task.rows("eval"))
    assert task.question(row) == without_answer(task.example(row))


@pytest.mark.parametrize("name", ROWS)
def test_what_is_missing_from_a_question_is_still_a_fault(name):
    task = TASKS[name](TASKS[name].settings_type())
    bare = {key: value for key, value in ROWS[name].items() if key != task.answer_field}
    for key in bare:
        (fault,) = task.question_faults({other: bare[other] for other in bare if other != key})
        assert fault.startswith(f"{key} is missing")


def test_an_answer_that_is_half_known_is_refused():
    example = TASKS["boolq"](TASKS["boolq"].settings_type()).example(ROWS["boolq"])
    with pytest.raises(HeftError, match="has neither gold nor target"):
        type(example)(id="0", prompt="p", choices=example.choices, gold=1, answer="")
