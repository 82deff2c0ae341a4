"""ARC-Easy, ARC-Challenge and OpenBookQA: rows whose options carry labels."""

import pytest

from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.arc import ArcChallenge, ArcChallengeSettings, ArcEasy, ArcEasySettings, Openbookqa, OpenbookqaSettings

ROW = {
    "id": "q1",
    "question": "Which is a metal?",
    "choices": {"text": ["wood", "iron ", "glass"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
LETTERS = "Question: Which is a metal?\nA. wood\nB. iron\nC. glass\nAnswer:"
ARC = [(ArcEasy, ArcEasySettings), (ArcChallenge, ArcChallengeSettings)]


@pytest.mark.parametrize(("task", "settings"), ARC)
def test_letters_list_the_options_under_a_b_c_even_where_labels_are_numbers(task, settings):
    example = task(settings()).example(ROW)
    assert example.prompt == LETTERS
    assert (example.choices, example.gold, example.answer) == ((" A", " B", " C"), 1, " B")


@pytest.mark.parametrize(("task", "settings"), ARC)
def test_cloze_shows_the_question_alone_and_the_options_are_the_choices(task, settings):
    example = task(settings(format="cloze")).example(ROW)
    assert example.prompt == "Question: Which is a metal?\nAnswer:"
    assert (example.choices, example.gold, example.answer) == ((" wood", " iron", " glass"), 1, " iron")


def test_labels_as_letters_mean_the_same_as_numbers():
    lettered = {**ROW, "choices": {**ROW["choices"], "label": ["A", "B", "C"]}, "answerKey": "B"}
    task = ArcEasy(ArcEasySettings())
    assert task.example(lettered) == task.example(ROW)


def test_openbookqa_letters_and_cloze():
    row = {"question_stem": "Iron is", "choices": {"text": list("wxyz"), "label": list("ABCD")}, "answerKey": "D"}
    lettered = Openbookqa(OpenbookqaSettings()).example(row)
    assert lettered.prompt == "Question: Iron is\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    assert lettered.answer == " D"
    cloze = Openbookqa(OpenbookqaSettings(format="cloze")).example(row)
    assert (cloze.prompt, cloze.answer) == ("Iron is", " z")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"answerKey": "E"}, r"answerKey must be one of the labels \['1', '2', '3'\]; got 'E'"),
        ({"choices": {"text": ["a"]}}, "choices must hold the lists text and label"),
        ({"choices": {"text": ["a", "b", "c"], "label": ["A", "B"]}}, "of one length"),
        ({"choices": {"text": ["a", "b"], "label": ["A", "B"]}}, "must have 3 to 5 options; got 2"),
        ({"choices": {"text": ["a", "", "c"], "label": ["1", "2", "3"]}}, "not empty"),
        ({"choices": ["a", "b", "c"]}, "choices must be an object"),
    ],
)
def test_malformed_options_are_refused(rows_folder, change, fault):
    with pytest.raises(HeftError, match=f"validation.jsonl:1: .*{fault}"):
        load_examples(ArcEasySettings(source=rows_folder([{**ROW, **change}])), "eval")


@pytest.mark.parametrize(
    ("settings", "folder", "counts"),
    [
        (ArcEasySettings, "arc_easy", (2251, 570, 2376)),
        (ArcChallengeSettings, "arc_challenge", (1119, 299, 1172)),
        (OpenbookqaSettings, "openbookqa", (4957, 500, 500)),
    ],
)
def test_real_rows_are_counted_and_every_gold_is_the_answer_key(shared_folder, settings, folder, counts):
    source = shared_folder(folder)
    train = load_examples(settings(source=source), "train")
    validation = load_examples(settings(source=source), "eval")
    test = load_examples(settings(source=source, eval_split="test"), "eval")
    assert (len(train), len(validation), len(test)) == counts
    assert {len(example.choices) for example in train + validation + test} <= {3, 4, 5}
    assert len({example.id for example in train}) == len(train)
