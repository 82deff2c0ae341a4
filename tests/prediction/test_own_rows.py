"""A person's own rows: trained from a file, predicted from another, with the first one gone."""

import csv
import json
import re

import pytest

import heft
from heft.cli.generate import generate
from heft.cli.predict import predict
from heft.errors import HeftError
from heft.prediction.prompts import prompts_in
from heft.tasks.rows import Rows, RowsSettings
from tiny import byte_tokenizer, tiny_model
from tiny_recipe import write_recipe

STAGES = "{fine: {method: reft, rank: 2, positions: l1, steps: 2, batch_size: 4}}"
TASK = '{name: rows, train: %s, prompt: "Ticket: {text}\\nKind:", answer: label, choices: labels, format: cloze}'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    file = folder / "tickets.csv"
    file.write_text("id,text,label\n" + "".join(f"{i:03},ticket {i},{'ab'[i % 2]}\n" for i in range(30)))
    made = heft.train(write_recipe(folder, STAGES, f"output: {folder / 'run'}", task=TASK % file))
    file.unlink()
    return made


def test_new_rows_are_answered_without_the_rows_that_were_trained_on(run, tmp_path):
    new, output = tmp_path / "new.csv", tmp_path / "out.csv"
    new.write_text("id,text\n007,my ticket\n008,another\n")
    predict(run.directory, str(new), output=output)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["007", "008"]
    assert list(rows[0]) == ["id", "text", "prediction", "probability", "probability_a", "probability_b"]
    assert {row["prediction"] for row in rows} <= {"a", "b"}


def test_a_typed_text_fills_the_template_and_a_filled_one_stays(run, capsys):
    expected = heft.predict(run, [{"text": "my ticket"}])[0]
    for prompt in ("my ticket", "Ticket: my ticket\nKind:"):
        generate(run.directory, [prompt])
        assert capsys.readouterr().out == f"{expected['prediction']} ({100 * expected['probability']:.1f} %)\n"
    generate(run.directory, ["my ticket", "Ticket: my ticket\nKind:"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["prompt"] for each in found] == ["Ticket: my ticket\nKind:"] * 2


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "Which?", "choices": ["one", "two"]}, {"answer": "two"}),
        ({"prompt": "Say it."}, {"completion": "it"}),
        ({"instruction": "Say it.", "input": "it"}, {"output": "it"}),
    ],
)
def test_rows_of_every_kind_are_asked_as_with_their_answers(row, answer):
    task = Rows(RowsSettings(train=[{**row, **answer}] * 2))
    example, question = task.example({**row, **answer}), task.question(row)
    assert not question.answered
    same = ("prompt", "choices", "turns", "question", "options")
    assert [getattr(question, key) for key in same] == [getattr(example, key) for key in same]


@pytest.mark.parametrize("order", [1, -1])
def test_rows_with_choices_beside_rows_without_are_refused_with_the_first_of_each(tmp_path, order):
    rows = [{"question": "Which?", "choices": ["one", "two"]}, {"prompt": "Say it."}][::order]
    task = {"name": "rows", "train": [{"prompt": "x", "completion": "y"}]}
    told = "list row .* has choices, one of which is the answer, and the answer to list row .* is generated"
    with pytest.raises(HeftError, match=told):
        heft.predict(tiny_model(), rows, tokenizer=byte_tokenizer(), task=task)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(HeftError, match=rf"{re.escape(str(file))}:\d has choices"):
        prompts_in(file, Rows(RowsSettings(**task)))


def test_a_chat_is_asked_up_to_its_last_turn_of_the_assistant():
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    task = Rows(RowsSettings(train=[{"messages": turns}], chat_template=True))
    assert task.question({"messages": turns}).turns == task.question({"messages": turns[:1]}).turns == (("user", "Hi"),)
    asked = task.question({"messages": [*turns, {"role": "user", "content": "Bye"}, turns[1]]}).turns
    assert asked == (("user", "Hi"), ("assistant", "Ho"), ("user", "Bye"))
