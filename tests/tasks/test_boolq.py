"""BoolQ."""

import pytest

from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.boolq import Boolq, BoolqSettings

ROW = {"question": "is the sky blue", "title": "Sky", "passage": "By day the sky is blue.", "answer": True}


def test_prompt_with_passage_is_passage_question_answer():
    example = Boolq(BoolqSettings()).example(ROW)
    assert example.prompt == "By day the sky is blue.\nQuestion: is the sky blue?\nAnswer:"
    assert example.choices == (" no", " yes")
    assert (example.gold, example.answer, example.target) == (1, " yes", None)


def test_prompt_without_passage_is_the_question_alone_in_the_same_group():
    example = Boolq(BoolqSettings(passage=False)).example({**ROW, "answer": False})
    assert example.prompt == "Question: is the sky blue?\nAnswer:"
    assert (example.gold, example.answer) == (0, " no")
    assert example.group == Boolq(BoolqSettings()).example(ROW).group


def test_a_question_mark_is_not_doubled():
    assert "is the sky blue?\n" in Boolq(BoolqSettings()).example({**ROW, "question": "is the sky blue ?"}).prompt


def test_an_answer_as_text_is_refused(rows_folder):
    with pytest.raises(HeftError, match="validation.jsonl:2: answer must be true or false; got 'True'"):
        load_examples(BoolqSettings(source=rows_folder([ROW, {**ROW, "answer": "True"}])), "eval")


def test_the_real_validation_rows_are_3270_of_2938_passages_and_62_17_percent_yes(shared_folder):
    examples = load_examples(BoolqSettings(source=shared_folder("boolq")), "eval")
    assert len(examples) == 3270
    assert round(100 * sum(example.gold for example in examples) / 3270, 2) == 62.17
    assert len({example.group for example in examples}) == 2938
    assert len({example.id for example in examples}) == 3270


def test_the_real_train_rows_are_9427(shared_folder):
    assert len(load_examples(BoolqSettings(source=shared_folder("boolq")), "train")) == 9427
