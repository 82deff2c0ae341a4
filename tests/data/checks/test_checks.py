"""All checks on a recipe's rows: reported at once, each allowed by its own entry."""

import json
from dataclasses import replace
from typing import get_args

import pytest
from encoding import chosen, generated, tokenizer_that_drops

import heft
import tiny
from heft.builtin import TINY
from heft.data import rows as run_data
from heft.data.checks import checked_rows
from heft.data.encode import Encoder
from heft.data.rows import read_data
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.recipe.recipe import CheckName, Recipe
from heft.run import train as runner
from heft.runtime.reporter import Reporter

STAGES = "{fine: {method: reft, rank: 2, positions: l1, steps: 1, batch_size: 4}}"


class Notes(Reporter):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


class EndlessEncoder(Encoder):
    """Leaves the EOS token out."""

    def _encode(self, examples):
        return [replace(row, answer=row.answer[:-1]) for row in super()._encode(examples)]


def completions(rows):
    return [{"prompt": prompt, "completion": completion} for prompt, completion in rows]


TRAIN = completions([("Where is it", "here"), ("Who is it", "me"), ("What is it", "this")])
EVAL = completions([("When is it", "now")])
SILENT = [
    {"question": "Q?", "choices": ["~", "b"], "answer": 0},
    {"question": "R?", "choices": ["a", "b"], "answer": 1},
]
CASES = {
    "no_labels": (SILENT, [{"question": "S?", "choices": ["c", "d"], "answer": 1}]),
    "all_labels": (TRAIN + completions([("<bos>", "a")]), EVAL),
    "pad_trained": (TRAIN + completions([("Which", "a <pad> b")]), EVAL),
    "double_bos": (TRAIN + completions([("<bos><bos>Which", "a")]), EVAL),
    "end_missing": (TRAIN, EVAL),
    "answers_cut": (TRAIN, completions([("When", "not in the next days")])),
    "train_in_eval": (TRAIN, TRAIN[:1]),
    "labels_alike": (completions([(f"Is it {n}", "yes") for n in range(10)]), EVAL),
    "never_chosen": (SILENT, [{"question": "S?", "choices": ["not", "not sure"], "answer": 1}]),
    "beyond_positions": (TRAIN + completions([("Where is it" + "?" * 1100, "far away")]), EVAL),
    "open_thinking": (TRAIN, EVAL),
}
SETTINGS = {"beyond_positions": ["task.max_length=1200"], "open_thinking": ["task.chat_template=true"]}


def thinking_tokenizer():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}<think>\n"
    return tokenizer


@pytest.fixture
def recipe_of(recipe_file, tmp_path, monkeypatch):
    """Writes a check's rows and its recipe, and gives heft what the fault needs beside them."""

    def make(check: str, *settings: str) -> Recipe:
        for split, rows in zip(("train", "eval"), CASES[check], strict=True):
            (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        if check == "end_missing":
            monkeypatch.setattr(run_data, "Encoder", EndlessEncoder)
        if check == "no_labels":
            monkeypatch.setattr("heft.models.load.byte_tokenizer", lambda: tokenizer_that_drops(" ~"))
        if check == "open_thinking":
            monkeypatch.setattr("heft.models.load.byte_tokenizer", thinking_tokenizer)
        files = f"train: {tmp_path / 'train.jsonl'}, eval: {tmp_path / 'eval.jsonl'}"
        length = "" if "choices" in CASES[check][1][0] else "max_new_tokens: 10, "
        task = f"{{name: rows, format: cloze, {length}{files}}}"
        return load_recipe(
            recipe_file(STAGES, task=task), [*SETTINGS.get(check, ()), *settings], output=str(tmp_path / "run")
        )

    return make


def test_every_check_has_a_case():
    assert set(CASES) == set(get_args(CheckName))


@pytest.mark.parametrize("check", CASES)
def test_a_checks_finding_is_an_error_before_weights_load_unless_allowed(check, recipe_of, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runner, "load_base", lambda settings: pytest.fail("weights were loaded"))
        with pytest.raises(HeftError) as caught:
            heft.train(recipe_of(check))
    assert str(caught.value).endswith(f"or set allow: [{check}] if this is meant")
    assert "\n" not in str(caught.value)
    allowed = recipe_of(check, f"allow=[{check}]")
    notes = Notes()
    heft.train(allowed, notes)
    assert [line for line in notes.lines if line.startswith(f"allowed ({check}): ")]


def test_rows_without_a_label_are_left_out_where_they_are_allowed(recipe_of):
    data = read_data(recipe_of("no_labels", "allow=[no_labels]"), Reporter())
    assert [row.example.prompt for row in data.train] == ["Question: R?\nAnswer:"]


def recipe(*allow: str) -> Recipe:
    task = {"name": "rows", "train": "t", "eval": "e"}
    stages = {"a": {"method": "lora"}}
    return Recipe(name="r", model={"name": TINY}, task=task, stages=stages, allow=list(allow))


def check(train, evaluation, *allow: str, tokenizer=None) -> list:
    return checked_rows(recipe(*allow), train, evaluation, tokenizer or tokenizer_that_drops("~"), Reporter())


def test_all_that_is_found_is_reported_at_once_and_an_entry_takes_just_its_own_away():
    rows = [generated("<bos><bos>Which", " a"), generated("Which", " <pad>")]
    with pytest.raises(HeftError) as caught:
        check(rows, rows)
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 checks before training failed:"
    assert [line.rpartition("allow: ")[2] for line in lines[1:]] == [
        f"[{name}] if this is meant" for name in ("pad_trained", "double_bos", "answers_cut", "train_in_eval")
    ]
    with pytest.raises(HeftError) as caught:
        check(rows, rows, "double_bos")
    assert "double_bos] if" not in str(caught.value)
    assert "set allow: [double_bos, pad_trained] if this is meant" in str(caught.value)
    assert check(rows, rows, "double_bos", "pad_trained", "answers_cut", "train_in_eval") == rows


def test_no_label_at_all_and_a_choice_that_cannot_be_scored_are_never_allowed():
    tokenizer = tokenizer_that_drops(" yes")
    silent = chosen(tokenizer=tokenizer)
    with pytest.raises(HeftError, match="nothing to train on"):
        check([silent], [generated()], "no_labels", tokenizer=tokenizer)
    with pytest.raises(HeftError, match=r"1 of 1 eval rows have a choice without tokens, .*\(' yes', ' no'\)"):
        check([generated()], [silent], tokenizer=tokenizer)


def test_repeated_rows_are_told_and_are_no_error():
    notes = Notes()
    rows = [generated("Q:", " a"), generated("Q:", " a"), generated("R:", " b")]
    assert checked_rows(recipe(), rows, [generated("S:", " c")], tokenizer_that_drops("~"), notes) == rows
    assert notes.lines == ["questions asked again: 1 of 3 train rows, 1 with the same answer"]


def test_allow_takes_known_names_once_each():
    with pytest.raises(HeftError, match="must not repeat"):
        recipe("double_bos", "double_bos")
    with pytest.raises(HeftError, match="expected one of no_labels"):
        recipe("everything")
