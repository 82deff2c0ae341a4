"""What tables of several kinds are taken for."""

import random

import pytest

from heft.errors import HeftError
from heft.tasks.guess import guess_task
from heft.tasks.rows import Rows, RowsSettings
from heft.tasks.rows.template import Template

WORDS = ("the order was late and nobody told me where my parcel is or when it comes to our house").split()  # noqa: SIM905


def sentences(count: int, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.sample(WORDS, 9)) + f" {number}" for number in range(count)]


def table(**columns) -> list[tuple[str, dict]]:
    rows = zip(*columns.values(), strict=True)
    return [(f"t.csv:{line}", dict(zip(columns, cells, strict=True))) for line, cells in enumerate(rows, start=2)]


def cycle(values, count=60):
    return [values[i % len(values)] for i in range(count)]


TEXT, LONG = sentences(60), [f"{one} {other}" for one, other in zip(sentences(60, 1), sentences(60, 2), strict=True)]
IDS = [f"T-{number:05}" for number in range(60)]
DATES = [f"2026-01-{1 + number % 28:02}" for number in range(60)]
LABELS = {"choices": "labels"}


@pytest.mark.parametrize(
    ("rows", "kind", "settings"),
    [
        # tickets: id, date, empty cells and a column of labels
        (
            table(id=IDS, created=DATES, text=TEXT, note=cycle(["", "x"]), label=cycle(["refund", "delay", "other"])),
            "labels",
            {"prompt": "Text: {text}\nLabel:", "answer": "label", **LABELS},
        ),
        # sentiment as numbers
        (
            table(sentence=TEXT, label=cycle(["0", "1"])),
            "labels",
            {"prompt": "Sentence: {sentence}\nLabel:", "answer": "label", **LABELS},
        ),
        # intents under a name of one's own, with a number beside them
        (
            table(utterance=TEXT, Bereich=cycle(["Konto", "Karte", "Kredit"]), dauer=cycle(["3", "8", "12", "5"])),
            "labels",
            {"prompt": "Utterance: {utterance}\nBereich:", "answer": "Bereich", **LABELS},
        ),
        # two texts and a label, as in natural language inference
        (
            table(premise=TEXT, hypothesis=LONG, label=cycle(["yes", "no", "maybe"])),
            "labels",
            {"prompt": "Premise: {premise}\nHypothesis: {hypothesis}\nLabel:", "answer": "label", **LABELS},
        ),
        # multiple choice with letters
        (
            table(question=TEXT, A=cycle("abc"), B=cycle("bcd"), C=cycle("cde"), D=cycle("def"), answer=cycle("ABCD")),
            "choices",
            {"prompt": "Question: {question}\nAnswer:", "answer": "answer", "choices": ["A", "B", "C", "D"]},
        ),
        # options counted from 1
        (
            table(sentence=TEXT, option1=cycle(["he", "she"]), option2=cycle(["it", "they"]), answer=cycle(["1", "2"])),
            "choices",
            {
                "prompt": "Sentence: {sentence}\nAnswer:",
                "answer": "answer",
                "choices": ["option1", "option2"],
                "label_names": {"1": "option1", "2": "option2"},
            },
        ),
        # a question and a free answer
        (
            table(nr=IDS, question=TEXT, answer=LONG),
            "completion",
            {"prompt": "Question: {question}\nAnswer:", "answer": "answer"},
        ),
        # summaries, with a category that is not what is asked
        (
            table(document=LONG, category=cycle(["a", "b"]), summary=TEXT),
            "labels",
            {"prompt": "Document: {document}\nSummary: {summary}\nCategory:", "answer": "category", **LABELS},
        ),
        # translation: two columns of text
        (table(de=TEXT, en=LONG), "completion", {"prompt": "De: {de}\nEn:", "answer": "en"}),
        # keys that say it
        (table(prompt=TEXT, completion=LONG), "completion", {}),
        (table(messages=[[{"role": "user", "content": "x"}]] * 60), "chat", {"chat_template": True}),
        (table(instruction=TEXT, input=cycle(["", "x"]), output=LONG), "completion", {"chat_template": True}),
        (table(question=TEXT, choices=[["a", "b"]] * 60, answer=cycle([0, 1])), "choices", {}),
    ],
)
def test_a_table_is_taken_for_what_it_is(rows, kind, settings):
    guess = guess_task(rows)
    assert (guess.kind, guess.settings) == (kind, settings)
    assert guess.why.endswith(".")


def test_an_index_from_0_beside_choices_that_are_numbers_has_columns_as_names():
    options = {name: [str(number + place) for number in range(60)] for place, name in enumerate("ABCD")}
    by_index = guess_task(table(question=TEXT, **options, answer=cycle(["0", "1", "2", "3"])))
    assert by_index.settings["label_names"] == {"0": "A", "1": "B", "2": "C", "3": "D"}
    assert by_index.why.endswith("says which is right.")
    by_text = guess_task(table(question=TEXT, **options, answer=options["B"]))
    assert (by_text.settings["answer"], "label_names" in by_text.settings) == ("answer", False)


@pytest.mark.parametrize("letters", ["ABC", "abc"])
@pytest.mark.parametrize(
    "columns", ["ABC", "abc", ("option_a", "option_b", "option_c"), ("choice1", "choice2", "choice3")]
)
def test_a_letter_says_which_choice_is_right_in_either_case(letters, columns):
    """Otherwise letters count as labels, and no prompt shows what they stand for."""
    texts = [[f"{word} {number}" for number in range(60)] for word in ("alpha", "beta", "gamma")]
    rows = table(question=TEXT, **dict(zip(columns, texts, strict=True)), answer=cycle(letters))
    guess = guess_task(rows)
    assert (guess.kind, guess.settings["choices"]) == ("choices", list(columns))
    task = Rows(RowsSettings(train=[row for _, row in rows], **guess.settings))
    assert [task.example(row).gold for _, row in rows] == cycle([0, 1, 2])


def test_flags_decide():
    rows = table(document=LONG, category=cycle(["a", "b"]), summary=TEXT)
    guess = guess_task(rows, answer="summary")
    assert (guess.kind, guess.settings["answer"]) == ("completion", "summary")
    guess = guess_task(rows, prompt="{document} =>", answer="category")
    assert (guess.kind, guess.settings["prompt"]) == ("labels", "{document} =>")


def test_ids_dates_numbers_and_texts_are_no_labels():
    guess = guess_task(table(id=IDS, date=DATES, price=cycle(["1.50", "2.99"]), text=TEXT, label=cycle(["x", "y"])))
    assert guess.settings == {"prompt": "Text: {text}\nLabel:", "answer": "label", **LABELS}
    assert guess.labels == {"x": 30, "y": 30}


def test_what_cannot_be_decided_is_said_with_the_flags_that_decide():
    with pytest.raises(HeftError, match="the columns id, text do not say what the task is; name .* with --answer"):
        guess_task(table(id=IDS, text=TEXT))
    with pytest.raises(HeftError, match=r'such as --prompt "\{body a\}\\nBody b:" --answer \'body b\''):
        guess_task(table(**{"body a": TEXT, "number": IDS, "more": LONG, "body b": LONG}))
    with pytest.raises(HeftError, match="text is the only column; rows need one to read and one with the answer"):
        guess_task(table(text=TEXT))
    with pytest.raises(HeftError, match="no column 'lable'; the columns are text, label"):
        guess_task(table(text=TEXT, label=TEXT), answer="lable")


def test_a_column_that_no_prompt_can_name_is_not_in_the_prompt():
    rows = table(**{"te{x}t": LONG, "body": TEXT, "la{b}el": cycle(["x", "y"])})
    guess = guess_task(rows, answer="la{b}el")
    assert guess.settings == {"prompt": "Body: {body}\nLa{{b}}el:", "answer": "la{b}el", **LABELS}
    assert Template(guess.settings["prompt"]).columns == ["body"]
    with pytest.raises(HeftError, match="no prompt can name the column 'te{x}t'"):
        guess_task(table(**{"te{x}t": LONG, "label": cycle(["x", "y"])}))


def test_numbers_in_names_of_columns_are_what_an_answer_counts_by_where_values_could_be_counted_either_way():
    """Counted from 0, each row would have another choice as the right one, and nothing would say so."""
    for start in (0, 1):
        columns = [f"option{number}" for number in range(start, start + 4)]
        texts = {name: [f"{name} of {number}" for number in range(60)] for name in columns}
        guess = guess_task(table(question=TEXT, **texts, answer=cycle(["1", "2", "3"])))
        task = Rows(RowsSettings(train=[{"question": "?"}], **guess.settings))
        golds = [
            task.example({"question": "?", "answer": value, **dict.fromkeys(columns, "x")}).gold for value in "123"
        ]
        assert [columns[gold] for gold in golds] == ["option1", "option2", "option3"]


@pytest.mark.parametrize("columns", ["ABCD", ("option1", "option2", "option3", "option4")])
@pytest.mark.parametrize("texts", [("5", "3", "4", "1"), ("O", "B", "D", "A")])
def test_an_answer_that_is_the_text_of_a_choice_in_every_row_is_no_number_and_no_letter_of_one(columns, texts):
    cells = {name: cycle([*texts[place:], *texts[:place]]) for place, name in enumerate(columns)}
    rows = table(question=TEXT, **cells, answer=[texts[2], *cycle(["", f" {texts[3]}"], 59)])
    assert guess_task(rows).settings.keys() == {"prompt", "answer", "choices"}


def test_ten_options_and_more_are_choices():
    texts = {f"option_{number}": [f"{number} of {row}" for row in range(60)] for number in range(1, 13)}
    guess = guess_task(table(question=TEXT, **texts, answer=cycle([str(number) for number in range(1, 13)])))
    assert guess.settings["choices"] == list(texts)
    assert guess.settings["label_names"]["12"] == "option_12"
