"""Layouts of published data sets, with choices in lists and objects, and texts in parts of columns."""

import random

import pytest
from pydantic import TypeAdapter

from heft.errors import HeftError
from heft.recipe.recipe import Recipe
from heft.tasks import load_examples, task_for
from heft.tasks.guess import guess_task
from heft.tasks.rows import Rows, RowsSettings
from heft.tasks.table import read_table

ROWS = 40
LETTERS = "ABCD"


def questions(**columns) -> list[tuple[str, dict]]:
    """Rows with a question and what else `columns` make of a row's number."""
    made = [{"question": f"What is asked in number {n} here?"} for n in range(ROWS)]
    return [(f"q.jsonl:{n + 1}", row | {name: make(n) for name, make in columns.items()}) for n, row in enumerate(made)]


def gold(number: int) -> int:
    return random.Random(number).randrange(4)


def texts(number: int) -> list[str]:
    return ["right" if place == gold(number) else f"wrong {place}" for place in range(4)]


def rights(rows: list[tuple[str, dict]], settings: dict) -> list[str]:
    """The right choice of each row, as a task with these settings reads it."""
    task = Rows(RowsSettings(train=[row for _, row in rows], **settings))
    return [task.example(row).answer.strip() for _, row in rows]


LAYOUTS = {
    "arc": {
        "choices": lambda n: {"text": texts(n), "label": list("1234" if n % 7 == 0 else LETTERS)},
        "answerKey": lambda n: ("1234" if n % 7 == 0 else LETTERS)[gold(n)],
    },
    "hellaswag": {"endings": texts, "label": lambda n: str(gold(n))},
    "mmlu": {"subject": lambda n: f"subject {n % 3}", "choices": texts, "answer": gold},
    "race": {"article": lambda n: f"A long article, {n}.", "options": texts, "answer": lambda n: LETTERS[gold(n)]},
    "medqa": {
        "answer": lambda n: "right",
        "options": lambda n: dict(zip(LETTERS, texts(n), strict=True)),
        "answer_idx": lambda n: LETTERS[gold(n)],
    },
    "medmcqa": {f"op{name}": (lambda n, place=place: texts(n)[place]) for place, name in enumerate("abcd")}
    | {"cop": gold, "exp": lambda n: f"An explanation of number {n} that tells it."},
    "counted from 1": {"options": texts, "gold_label": lambda n: gold(n) + 1},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_choices_of_each_row_are_found_with_the_right_one(layout):
    rows = questions(**LAYOUTS[layout])
    guess = guess_task(rows)
    assert guess.kind == "choices"
    assert rights(rows, guess.settings) == ["right"] * ROWS
    prompt = guess.settings.get("prompt", "{question}")
    assert "{question}" in prompt
    assert not any(f"{{{name}" in prompt for name in ("answer", "choices", "options", "exp", "opa"))


def test_an_index_that_is_another_choices_text_in_some_rows_gets_letters_as_names():
    """Read without them, such rows are refused, since nothing in the row says what is meant."""
    numbers = [[str((n + place) % 7) for place in range(4)] for n in range(ROWS)]
    rows = questions(choices=lambda n: numbers[n], answer=gold)
    guess = guess_task(rows)
    assert guess.settings["label_names"] == {"0": "A", "1": "B", "2": "C", "3": "D"}
    assert rights(rows, guess.settings) == [numbers[n][gold(n)] for n in range(ROWS)]


WRONG = {
    "sciq": {f"distractor{k}": (lambda n, k=k: f"wrong {k} of {n}") for k in (1, 2, 3)}
    | {"correct_answer": lambda n: f"right of {n}", "support": lambda n: f"A passage about number {n}."},
    "gpqa": {"Correct Answer": lambda n: f"right of {n}"}
    | {f"Incorrect Answer {k}": (lambda n, k=k: f"wrong {k} of {n}") for k in (1, 2, 3)},
    "a list": {"best_answer": lambda n: f"right of {n}"}
    | {"incorrect_answers": lambda n: [f"wrong {k} of {n}" for k in range(3)]},
}  # fmt: skip


@pytest.mark.parametrize("layout", WRONG)
def test_right_answers_beside_wrong_ones_are_choices_in_an_order_that_does_not_tell(layout):
    rows = questions(**WRONG[layout])
    guess = guess_task(rows)
    assert rights(rows, guess.settings) == [f"right of {n}" for n in range(ROWS)]
    task = Rows(RowsSettings(train=[row for _, row in rows], **guess.settings, format="letters"))
    places = [task.example(row).gold for _, row in rows]
    assert min(places.count(place) for place in range(4)) > 2
    asked = task.question(rows[0][1])
    assert (asked.prompt, asked.gold) == (task.example(rows[0][1]).prompt, None)
    columns = guess.settings["choices"]
    turned = Rows(RowsSettings(train=[rows[0][1]], **{**guess.settings, "choices": columns[::-1]}, format="letters"))
    assert turned.example(rows[0][1]).prompt == task.example(rows[0][1]).prompt


def test_answers_in_objects_and_lists_are_generated():
    squad = questions(
        context=lambda n: f"The city of number {n} lies by the sea.",
        answers=lambda n: {"text": [f"by the sea {n}", "elsewhere"], "answer_start": [3, 4]},
    )
    guess = guess_task(squad)
    assert guess.settings == {
        "prompt": "Question: {question}\nContext: {context}\nAnswer:",
        "answer": "answers.text.0",
    }
    assert rights(squad, guess.settings)[:2] == ["by the sea 0", "by the sea 1"]
    assert guess_task(squad, answer="answers.text.0").settings == guess.settings
    trivia = questions(answer=lambda n: {"aliases": ["x"], "value": f"the value {n}", "matched_wiki_entity_name": ""})
    assert guess_task(trivia).settings == {"prompt": "Question: {question}\nAnswer:", "answer": "answer.value"}


def test_translations_in_one_object_are_a_text_and_what_is_to_be_written():
    rows = [("t:1", {"translation": {"en": f"The house {n}", "de": f"Das Haus {n}"}}) for n in range(ROWS)]
    guess = guess_task(rows)
    assert guess.settings == {"prompt": "En: {translation.en}\nDe:", "answer": "translation.de"}
    settings = RowsSettings(train=[row for _, row in rows], **guess.settings)
    assert len(load_examples(settings, "train")) + len(load_examples(settings, "eval")) == ROWS
    assert Rows(settings).example(rows[3][1]).prompt == "En: The house 3\nDe:"


def test_rows_with_choices_of_which_none_is_said_to_be_right_are_taken_for_nothing_else():
    """They had been taken for labels, A to D, of a prompt that showed no choices."""
    rows = questions(options=texts, label=lambda n: ["x", "y"][n % 2])
    with pytest.raises(HeftError, match="'options' holds the choices of each row, and no column says which is right"):
        guess_task(rows)
    assert guess_task(rows, answer="label").kind == "labels"


def test_rows_that_are_at_fault_do_not_hide_what_the_others_are():
    rows = questions(choices=lambda n: {"text": texts(n), "label": list(LETTERS)}, answerKey=lambda n: LETTERS[gold(n)])
    rows[3][1]["answerKey"] = "E"
    rows[4][1]["choices"] = None
    assert guess_task(rows).settings["choices"] == "choices"


def test_lists_that_are_called_otherwise_are_no_choices():
    rows = questions(tags=lambda n: ["red", "blue"], label=lambda n: n % 2)
    assert guess_task(rows).settings["choices"] == "labels"


NAMES = ["arc_challenge", "arc_easy", "openbookqa", "hellaswag", "piqa", "siqa", "winogrande"]


@pytest.mark.parametrize("name", NAMES)
def test_real_rows_have_the_right_choice_that_the_task_of_their_name_reads(shared_folder, name):
    folder = shared_folder(name)
    rows = read_table(f"{folder}/train.jsonl")[:400]
    guess = guess_task(rows)
    own = task_for(
        TypeAdapter(Recipe.model_fields["task"].annotation).validate_python({"name": name, "source": folder})
    )
    read = [own.example(row) for _, row in rows]
    assert rights(rows, guess.settings) == [example.labels[example.gold] for example in read]
