"""Social IQa."""

import pytest

from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.siqa import Siqa, SiqaSettings

ROW = {
    "context": "Ann gave Bo a book.",
    "question": "Why did Ann do this?",
    "answerA": "to be kind",
    "answerB": "to be rude",
    "answerC": "to sleep",
    "label": "1",
}


def test_letters_prompt():
    example = Siqa(SiqaSettings()).example(ROW)
    assert example.prompt == (
        "Ann gave Bo a book.\nQuestion: Why did Ann do this?\nA. to be kind\nB. to be rude\nC. to sleep\nAnswer:"
    )
    assert (example.choices, example.gold) == ((" A", " B", " C"), 0)


def test_cloze_prompt_and_choices():
    example = Siqa(SiqaSettings(format="cloze")).example({**ROW, "label": "3"})
    assert example.prompt == "Ann gave Bo a book.\nQuestion: Why did Ann do this?\nAnswer:"
    assert (example.choices[0], example.gold, example.answer) == (" to be kind", 2, " to sleep")


def test_questions_about_one_situation_share_a_group():
    task = Siqa(SiqaSettings())
    assert task.example(ROW).group == task.example({**ROW, "question": "How does Bo feel?"}).group


def test_a_label_counted_from_zero_is_refused(rows_folder):
    with pytest.raises(HeftError, match="label must be one of '1', '2', '3'; got '0'"):
        load_examples(SiqaSettings(source=rows_folder([{**ROW, "label": "0"}])), "eval")


def test_the_real_validation_rows_are_1954_with_19_repeats_told_apart(shared_folder):
    examples = load_examples(SiqaSettings(source=shared_folder("siqa")), "eval")
    ids = {example.id for example in examples}
    assert (len(examples), len(ids), sum("-" in example_id for example_id in ids)) == (1954, 1954, 19)
