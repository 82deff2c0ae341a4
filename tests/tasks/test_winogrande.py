"""WinoGrande."""

import pytest

from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.winogrande import Winogrande, WinograndeSettings

ROW = {"sentence": "Ann beat Bo since _ was faster.", "option1": "Ann", "option2": "Bo", "answer": "1"}


def test_letters_prompt():
    example = Winogrande(WinograndeSettings()).example(ROW)
    assert example.prompt == (
        "Sentence: Ann beat Bo since _ was faster.\nWhich option fills the blank?\nA. Ann\nB. Bo\nAnswer:"
    )
    assert (example.choices, example.gold) == ((" A", " B"), 0)


def test_cloze_prompt_ends_at_the_blank_and_choices_finish_the_sentence():
    example = Winogrande(WinograndeSettings(format="cloze")).example({**ROW, "answer": "2"})
    assert example.prompt == "Ann beat Bo since"
    assert (example.choices, example.gold) == ((" Ann was faster.", " Bo was faster."), 1)


def test_a_blank_at_the_start_leaves_something_to_continue():
    example = Winogrande(WinograndeSettings(format="cloze")).example({**ROW, "sentence": "_ beat Bo."})
    assert (example.prompt, example.choices) == ("Sentence:", (" Ann beat Bo.", " Bo beat Bo."))


def test_twins_that_agree_up_to_the_blank_share_a_group():
    task = Winogrande(WinograndeSettings())
    twin, other = (task.example({**ROW, "sentence": s}) for s in ("Ann beat Bo since _ was slower.", "Bo saw _ run."))
    assert task.example(ROW).group == twin.group != other.group


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"sentence": "Ann beat Bo."}, "sentence must have one blank '_'"),
        ({"sentence": "_ beat _."}, "sentence must have one blank '_'"),
        ({"answer": ""}, "answer is empty"),
        ({"answer": "3"}, "answer must be one of '1', '2'; got '3'"),
    ],
)
def test_malformed_rows_are_refused(rows_folder, change, fault):
    with pytest.raises(HeftError, match=f"validation.jsonl:1: .*{fault}"):
        load_examples(WinograndeSettings(source=rows_folder([{**ROW, **change}])), "eval")


@pytest.mark.parametrize("choice_format", ["letters", "cloze"])
def test_the_real_validation_rows_are_1267_of_which_639_have_the_second_option(shared_folder, choice_format):
    examples = load_examples(WinograndeSettings(source=shared_folder("winogrande"), format=choice_format), "eval")
    assert (len(examples), sum(example.gold for example in examples)) == (1267, 639)


def test_all_real_train_rows_can_be_used_as_cloze(shared_folder):
    settings = WinograndeSettings(source=shared_folder("winogrande"), format="cloze")
    assert len(load_examples(settings, "train")) == 40398
