"""GSM8K."""

import pytest

from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.gsm8k import Gsm8k, Gsm8kSettings, final_number

ROW = {
    "question": "Ann has 2 boxes of 9 eggs. How many eggs?",
    "answer": "There are 2*9 = <<2*9=18>>18 eggs.\n#### 18",
}


def test_prompt_and_worked_solution():
    example = Gsm8k(Gsm8kSettings()).example(ROW)
    assert example.prompt == "Question: Ann has 2 boxes of 9 eggs. How many eggs?\nAnswer:"
    assert example.answer == " There are 2*9 = 18 eggs.\n#### 18"
    assert (example.choices, example.gold, example.target) == ((), None, "18")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 9*2 = 20\n#### 18", "18"),
        ("#### 5\nno: #### 18", "18"),
        ("#### 18\nQuestion: 4 eggs?", "18"),
        ("####\n18", "18"),
        ("It is 18 eggs.", "18"),
        ("She makes $1,018.50.", "1018.5"),
        ("#### $18.", "18"),
        ("18.0", "18"),
        ("#### 018", "18"),
        ("#### -3", "-3"),
        ("#### -$3", "-3"),
        ("between 5-3", "3"),
        ("#### none, but 7", "7"),
        ("I had 7 #### none", "7"),
        ("about .50", "0.5"),
        ("-0.0", "0"),
        ("no number", None),
        ("", None),
    ],
)
def test_final_number(text, number):
    assert final_number(text) == number


@pytest.mark.parametrize("text", [" 2*9 = 18\n#### 18", "#### 18.0", "#### $18.00.", "the answer is 18."])
def test_the_same_number_in_another_form_is_correct(text):
    task = Gsm8k(Gsm8kSettings())
    assert task.is_correct(task.example(ROW), text)


@pytest.mark.parametrize("text", ["#### 81", "#### -18", "18\n#### 19", "eighteen", "#### 1.8", "#### 180"])
def test_another_number_or_none_is_wrong(text):
    task = Gsm8k(Gsm8kSettings())
    assert not task.is_correct(task.example(ROW), text)


def test_the_setting_bounds_generation_and_a_next_question_stops_it():
    task = Gsm8k(Gsm8kSettings(max_new_tokens=7))
    assert (task.max_new_tokens, task.stop) == (7, ("\nQuestion:",))


@pytest.mark.parametrize("answer", ["There are 18 eggs.", "#### none"])
def test_an_answer_without_a_final_number_is_refused(rows_folder, answer):
    with pytest.raises(HeftError, match="test.jsonl:1: answer must end in '#### <number>'"):
        load_examples(Gsm8kSettings(source=rows_folder([{**ROW, "answer": answer}], "test")), "eval")


def test_the_1319_real_test_solutions_are_correct_by_their_own_check(shared_folder):
    settings = Gsm8kSettings(source=shared_folder("gsm8k"))
    task, examples = Gsm8k(settings), load_examples(settings, "eval")
    assert len(examples) == 1319
    assert all(task.is_correct(example, example.answer) for example in examples)
    assert not any("<<" in example.answer or "," in example.target for example in examples)
    assert examples[0].target == "18"


def test_the_real_train_rows_are_7473(shared_folder):
    assert len(load_examples(Gsm8kSettings(source=shared_folder("gsm8k")), "train")) == 7473
