"""A person's own files."""

import json
import re

import pytest

from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.rows import Rows, RowsSettings
from heft.tasks.rows.labels import labels_found, named
from heft.tasks.rows.own_choices import Names, OwnChoices

QUESTION = {"question": "Which is a metal?", "choices": ["wood", "iron"], "answer": "iron", "note": "ignored"}
COMPLETION = {"prompt": "2 + 2 =", "completion": "4"}


@pytest.fixture
def settings_for(tmp_path):
    def settings(*rows: dict, **options) -> RowsSettings:
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return RowsSettings(train=str(path), eval=str(path), **options)

    return settings


def test_each_split_has_its_own_file(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(COMPLETION), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps(QUESTION) + "\n" + json.dumps(QUESTION), encoding="utf-8")
    settings = RowsSettings(train=str(tmp_path / "a.jsonl"), eval=str(tmp_path / "b.jsonl"))
    assert [len(load_examples(settings, split)) for split in ("train", "eval")] == [1, 2]


def test_choices_under_letters(settings_for):
    (example,) = load_examples(settings_for(QUESTION, format="letters"), "eval")
    assert example.prompt == "Question: Which is a metal?\nA. wood\nB. iron\nAnswer:"
    assert (example.choices, example.gold) == ((" A", " B"), 1)


def test_choices_as_cloze(settings_for):
    (example,) = load_examples(settings_for(QUESTION, format="cloze"), "eval")
    assert example.prompt == "Question: Which is a metal?\nAnswer:"
    assert (example.choices, example.gold) == ((" wood", " iron"), 1)


def test_an_answer_by_index_means_the_choice_at_that_index(settings_for):
    by_text, by_index = load_examples(settings_for(QUESTION, {**QUESTION, "answer": 1}), "eval")
    assert by_index.id == f"{by_text.id}-2"


@pytest.mark.parametrize(
    ("prompt", "completion", "stem", "answer"),
    [
        ("2 + 2 =", "4", "2 + 2 =", " 4"),
        ("2 + 2 = ", "4", "2 + 2 =", " 4"),
        ("Sum:\n", "4\n", "Sum:", "\n4"),
        ("Sum:", "\n\n4", "Sum:", "\n\n4"),
    ],
)
def test_completions_keep_the_whitespace_between(settings_for, prompt, completion, stem, answer):
    (example,) = load_examples(settings_for({"prompt": prompt, "completion": completion}), "eval")
    assert (example.prompt, example.answer, example.target) == (stem, answer, "4")
    assert (example.choices, example.gold) == ((), None)


def test_a_generated_answer_is_correct_when_equal_but_for_whitespace_at_the_ends(settings_for):
    settings = settings_for({"prompt": "Capital of France?", "completion": "Paris"}, max_new_tokens=9, stop=["\n"])
    task, (example,) = Rows(settings), load_examples(settings, "eval")
    assert task.is_correct(example, " Paris\n")
    assert not task.is_correct(example, " paris")
    assert not task.is_correct(example, " Paris.")
    assert (task.max_new_tokens, task.stop) == (9, ("\n",))


def test_generated_text_is_not_judged_for_rows_with_choices(settings_for):
    settings = settings_for(QUESTION)
    with pytest.raises(TypeError, match="likelihood"):
        Rows(settings).is_correct(load_examples(settings, "eval")[0], " iron")


def test_a_file_that_mixes_both_kinds_is_refused_with_the_first_line_of_each(settings_for):
    with pytest.raises(HeftError) as raised:
        load_examples(settings_for(COMPLETION, COMPLETION, QUESTION), "eval")
    assert "mixes rows of several kinds, 2 with prompt and completion (first " in str(raised.value)
    assert "mine.jsonl:1) and 1 with question, choices and answer (first " in str(raised.value)
    assert "mine.jsonl:3)" in str(raised.value)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": "x"}, "set task.prompt and task.answer; got text"),
        ({**QUESTION, **COMPLETION}, "expected the keys prompt and completion, question"),
        ({"prompt": "x"}, "there is no column 'completion' (the row has prompt)"),
        ({"prompt": "x", "completion": None}, "completion must be text; got null"),
        ({"prompt": "x", "completion": {}}, "completion must be text; got {}"),
        ({"prompt": " ", "completion": "x"}, "prompt is empty"),
        ({"question": "x", "answer": 0}, "choices is missing"),
        ({**QUESTION, "choices": "ab"}, "choices must be a list; got 'ab'"),
        ({**QUESTION, "choices": ["iron"]}, "choices must have at least 2 options; got 1"),
        ({**QUESTION, "choices": ["iron", None]}, "choices must be texts that are not empty; got null"),
        (
            {**QUESTION, "answer": "C"},
            "answer 'C' must be the text of exactly one choice, its letter or an index from 0",
        ),
        ({**QUESTION, "choices": ["iron", "iron"]}, "could mean 'iron' (letter A) and 'iron' (letter B)"),
        ({**QUESTION, "answer": 2}, "answer must be an index from 0 to 1"),
        ({**QUESTION, "answer": True}, "answer must be an index from 0 to 1"),
        ({**QUESTION, "choices": ["3", "4"], "answer": 4}, 'got 4; if this is its text, put it in quotes: "4"'),
        ({**QUESTION, "choices": [3, 4]}, 'got 3; if this is its text, put it in quotes: "3"'),
        (
            {**QUESTION, "choices": ["1", "0"], "answer": 1},
            "answer 1 is the index of '0', counted from 0, and the text",
        ),
        ({**QUESTION, "choices": [" 2", "0", "1"], "answer": 2}, "answer 2 is the index of '1', counted from 0, and"),
        (
            {**QUESTION, "choices": ["iron", *map(str, range(26))]},
            "27 options; letters reach to 26, so set task.format: cloze",
        ),
    ],
)
def test_malformed_rows_are_refused(settings_for, row, fault):
    with pytest.raises(HeftError, match=f"mine.jsonl:1: .*{re.escape(fault)}"):
        load_examples(settings_for(row, format="letters"), "eval")


def test_a_number_that_is_index_and_text_of_one_choice_is_that_choice(settings_for):
    for row in ({**QUESTION, "choices": ["0", "1"], "answer": 1}, {**QUESTION, "choices": ["1", "0"], "answer": "0"}):
        (example,) = load_examples(settings_for(row), "eval")
        assert example.gold == 1


def test_a_missing_file_is_answered_with_the_files_there_are(settings_for):
    settings = settings_for(COMPLETION).model_copy(update={"eval": "no/such.jsonl"})
    with pytest.raises(HeftError, match="There is no folder no either"):
        load_examples(settings, "eval")


@pytest.mark.parametrize(("value", "text"), [(4, "4"), (4.0, "4"), (0.5, "0.5"), (True, "true"), ("007", "007")])
def test_a_number_as_completion_is_its_text(settings_for, value, text):
    (example,) = load_examples(settings_for({"prompt": "x", "completion": value}), "eval")
    assert example.target == text


def test_rows_to_train_on_are_required():
    with pytest.raises(HeftError, match="train"):
        RowsSettings(eval="t.jsonl")


def test_a_split_of_a_file_is_refused_and_not_evaluated_as_all_that_was_trained_on(settings_for):
    settings = settings_for(*[{**COMPLETION, "prompt": f"{n} ="} for n in range(9)]).model_copy(update={"eval": None})
    assert len(load_examples(settings, "eval")) == 2
    with pytest.raises(HeftError, match="mine.jsonl is one table, which has no split 'test'"):
        load_examples(settings.model_copy(update={"eval_split": "test"}), "eval")


COLUMNS = ["A", "B", "C"]


@pytest.mark.parametrize(
    ("answer", "choices", "could_be"),
    [
        ("2", ["2", "3", "4"], "'2' (column A) and '4' (column C)"),
        ("0", ["1", "2", "0"], "'1' (column A) and '0' (column C)"),
        ("A", ["O", "A", "B"], "'O' (column A) and 'A' (column B)"),
        ("iron", ["iron", "gold", "iron"], "'iron' (column A) and 'iron' (column C)"),
    ],
)
def test_a_cell_that_could_mean_two_choices_is_refused_with_both(answer, choices, could_be):
    with pytest.raises(HeftError, match=re.escape(f"could mean {could_be}; write the right choice's column")):
        OwnChoices(choices, COLUMNS, Names.COLUMNS).gold(answer)


@pytest.mark.parametrize(
    ("answer", "choices", "gold"),
    [
        ("1", ["5", "6", "7"], 1),
        ("3", ["1", "2", "3"], 2),
        ("1", ["0", "1", "2"], 1),
        ("B", ["2", "3", "4"], 1),
        (" 2 ", ["x", "y", "z"], 2),
    ],
)
def test_a_cell_that_means_one_choice_is_that_choice(answer, choices, gold):
    assert OwnChoices(choices, COLUMNS, Names.COLUMNS).gold(answer) == gold


def test_an_answer_of_more_digits_than_python_reads_is_refused_in_words():
    digits = "9" * 5000
    with pytest.raises(HeftError, match="must be the text of exactly one choice"):
        OwnChoices(["x", "y", "z"], COLUMNS, Names.COLUMNS).gold(digits)
    template = {"train": [{"t": "x", "y": "0"}], "prompt": "{t}", "answer": "y", "choices": "labels"}
    with pytest.raises(HeftError, match="has no name; task.label_names has 0 to 1"):
        named(RowsSettings(**template, label_names=["a", "b"]), digits)


def test_labels_that_are_one_number_are_in_one_order_whatever_the_order_of_a_set():
    rows = [{"t": "x", "y": "0" * zeros + "1"} for zeros in range(9)] + [{"t": "x", "y": "0"}]
    settings = RowsSettings(train=rows, prompt="{t}", answer="y", choices="labels")
    assert labels_found(settings, rows) == ["0", *("0" * zeros + "1" for zeros in reversed(range(9)))]


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        ({"question": "2 - 2 =", "choices": ["1", "0"]}, {}),
        ({"q": "2 - 2 =", "c": ["1", "0"]}, {"prompt": "{q}", "answer": "a", "choices": "c"}),
        ({"q": "Which blood?", "A": "O", "B": "A"}, {"prompt": "{q}", "answer": "a", "choices": ["A", "B"]}),
        ({"q": "Which?", "c": ["x", "y"]}, {"prompt": "{q}", "answer": "a", "choices": "c", "label_names": {"1": "z"}}),
    ],
)
def test_a_question_is_asked_whatever_an_answer_to_it_could_be_mistaken_for(row, settings):
    question = Rows(RowsSettings(train=[row], **settings)).question(row)
    assert not question.answered
    assert [choice.strip() for choice in question.choices] == (row.get("choices") or row.get("c") or ["O", "A"])


def test_a_path_from_python_is_read_as_its_text_is_with_the_encoding_that_is_given(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\nCafé,a\nThé,b\n".encode("cp1252"))
    settings = RowsSettings(train=path, eval=path, encoding="cp1252", prompt="{text}", answer="label")
    assert settings.train == str(path)
    assert [example.prompt for example in load_examples(settings, "train")] == ["Café", "Thé"]


def test_a_data_set_of_several_splits_is_refused_where_one_table_is_meant():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([COMPLETION] * 2)
    with pytest.raises(HeftError, match=r"train: has the splits train and test, .* such as data\['train'\], and"):
        RowsSettings(train=datasets.DatasetDict(train=rows, test=rows), eval_split="test")
    assert RowsSettings(train=datasets.DatasetDict(train=rows)).train == [COMPLETION] * 2


@pytest.mark.parametrize("column", ["Question:", "Wow!", "a:b", "a!r", "a[0].b", " x "])
def test_a_column_of_any_name_without_braces_can_stand_in_a_prompt(settings_for, column):
    settings = settings_for({column: "is it?", "y": "yes"}, prompt=f"{{{{Q}}}} {{{column}}} A:", answer="y")
    (example,) = load_examples(settings, "train")
    assert example.prompt == "{Q} is it? A:"


@pytest.mark.parametrize(
    ("prompt", "text", "missed"),
    [
        ("{a} and {b}:", "one", "{a} and {b}:"),
        ("{a} and {b}:", "one and two:", None),
        ("Of {a}:", "one", None),  # which is filled in
    ],
)
def test_a_typed_text_misses_the_form_of_a_template_of_several_columns_that_it_does_not_fit(prompt, text, missed):
    rows = [{"a": "x", "b": "y", "c": "z"}] * 2
    assert Rows(RowsSettings(train=rows, prompt=prompt, answer="c")).missed_form(text) == missed
    assert Rows(RowsSettings(train=[COMPLETION])).missed_form(text) is None


def test_an_alpaca_input_of_0_is_an_input(settings_for):
    (example,) = load_examples(settings_for({"instruction": "Negate.", "input": 0, "output": "0"}), "train")
    assert "### Input:\n0\n" in example.prompt


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"prompt": "{txt}", "answer": "label", "choices": "labels"}, "there is no column 'txt'"),
        ({"prompt": "{text}", "answer": "lable", "choices": "labels"}, "there is no column 'lable'"),
        ({"prompt": "{text}", "answer": "label", "choices": ["x", "y"]}, "label must be one of the 2 labels x, y"),
        ({}, "expected the keys prompt and completion"),
    ],
)
def test_where_no_row_can_be_used_the_reason_is_said_of_rows_to_evaluate_too(settings, fault):
    """And not that there are no such rows."""
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(10)]
    with pytest.raises(HeftError, match=f"10 of 10 eval rows cannot be used:\n.*{fault}"):
        load_examples(RowsSettings(train=rows, **settings), "eval")


def test_a_number_beside_a_list_of_labels_is_refused_with_the_setting_that_names_numbers():
    rows = [{"text": f"text {n}", "label": n % 2} for n in range(10)]
    settings = {"train": rows, "prompt": "{text}", "answer": "label"}
    with pytest.raises(
        HeftError, match=r"got '1'; if it is a label's number, .* as task.label_names in place of task.ch"
    ):
        load_examples(RowsSettings(choices=["bad", "good"], **settings), "train")
    made = load_examples(RowsSettings(label_names=["bad", "good"], **settings), "train")
    assert {example.answer for example in made} == {" bad", " good"}
