"""Runs on a person's own rows: given from Python, moved, resumed."""

import json
import shutil
from datetime import date
from pathlib import Path

import pytest

import heft
from heft.adapters.manifest import read_manifest
from heft.compare.runs import read_run
from heft.errors import HeftError
from heft.recipe.files import dump_recipe, load_recipe, resolved
from heft.recipe.recipe import EvaluationSettings, Recipe
from heft.report.examples import load_texts
from heft.run.train import train
from heft.runtime.reporter import Reporter
from heft.study.runner import run_study
from heft.tasks import load_examples
from heft.tasks.rows import RowsSettings

ROWS = [
    {"text": f"ticket {n} is {'late' if n % 2 else 'broken'}", "kind": "delay" if n % 2 else "defect"}
    for n in range(24)
]
COLUMNS = {"prompt": "{text}\nKind:", "answer": "kind", "choices": "labels", "format": "cloze"}
STAGES = {"coarse": {"method": "lora", "rank": 2, "steps": 2, "batch_size": 4}}


class Warnings(Reporter):
    def __init__(self):
        self.said = []

    def warn(self, text):
        self.said.append(text)


def recipe_of(output, **task) -> Recipe:
    values = {"name": "own", "model": {"name": "random:tiny-llama"}, "stages": STAGES, "output": str(output)}
    return Recipe.model_validate({**values, "task": {"name": "rows", **COLUMNS, **task}})


def test_rows_in_memory_are_kept_with_the_run_and_move_with_it(tmp_path):
    run = train(recipe_of(tmp_path / "run", train=ROWS))
    moved = tmp_path / "elsewhere" / "run"
    shutil.move(run.directory, moved)
    stored = load_recipe(moved / "recipe.yaml")
    assert stored.task.choices == ["defect", "delay"]
    assert stored.task.train == (moved / "rows" / "train.jsonl").as_posix()
    model, tokenizer = heft.load(moved / "adapter")
    task = RowsSettings(**read_manifest(moved / "adapter").task)
    again = heft.evaluate(model, tokenizer, task, EvaluationSettings())
    assert again.metrics.accuracy == run.stages[-1].accuracy
    texts = load_texts(read_run(moved))
    assert {example.prompt for example in texts.by_id.values()} <= {f"{row['text']}\nKind:" for row in ROWS}
    assert (len(texts.by_id), texts.why_none) == (5, None)


def test_a_run_with_rows_in_memory_is_resumed_with_the_same_rows_only(tmp_path):
    run = train(recipe_of(tmp_path / "run", train=ROWS))
    assert train(recipe_of(tmp_path / "run", train=ROWS), resume=True).stages == run.stages
    with pytest.raises(HeftError, match="finished run of other data"):
        train(recipe_of(tmp_path / "run", train=ROWS[1:]), resume=True)
    shutil.rmtree(tmp_path / "run" / "adapter")
    with pytest.raises(HeftError, match="begun with other data"):
        train(recipe_of(tmp_path / "run", train=ROWS[1:]), resume=True)


def test_figures_of_a_finished_run_are_shown_again_where_its_rows_are_gone_and_refused_where_they_changed(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    recipe, heard = recipe_of(tmp_path / "run", train=str(file), choices=["defect", "delay"]), Warnings()
    run = train(recipe)
    file.rename(tmp_path / "moved.jsonl")
    assert train(recipe, heard, resume=True).stages == run.stages
    assert "was not looked at" in heard.said[0]
    assert "a.jsonl" in heard.said[0]
    others = [{**row, "text": row["text"].replace("ticket", "letter")} for row in ROWS]
    file.write_text("".join(json.dumps(row) + "\n" for row in others), encoding="utf-8")
    with pytest.raises(HeftError, match=r"19 training rows, now 19 others; 5 evaluation rows, now 5 others"):
        train(recipe, resume=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[2:]), encoding="utf-8")
    with pytest.raises(HeftError, match=r"of other data \(19 training rows, now 18; 5 evaluation rows, now 4\)"):
        train(recipe, resume=True)


def test_a_study_does_not_count_runs_of_rows_that_have_changed(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe_of(tmp_path / "run", train=str(file))), encoding="utf-8")
    study = tmp_path / "study.yaml"
    study.write_text(f"name: s\noutput: {tmp_path.as_posix()}/out\narms: {{lora: {{recipe: r.yaml}}}}\n", "utf-8")
    run_study(study)
    run_study(study)
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[2:]), encoding="utf-8")
    with pytest.raises(HeftError, match=r"lora.seed-0 holds a finished run of other data \(19 training rows, now 18; "):
        run_study(study)


def test_tables_in_memory_are_rows(tmp_path):
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    plain = load_examples(RowsSettings(train=ROWS, **COLUMNS), "eval")
    for table in (pandas.DataFrame(ROWS), datasets.Dataset.from_list(ROWS)):
        assert load_examples(RowsSettings(train=table, **COLUMNS), "eval") == plain


def test_values_of_python_that_json_has_not_are_kept_as_those_that_it_has(tmp_path):
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    others = {"day": date(2026, 1, 31), "size": numpy.float32(0.5), "photo": b"\xff\xd8", "note": pandas.NA}
    rows = [{**row, **others, "kind": numpy.int64(row["kind"] == "delay")} for row in ROWS]
    run = train(recipe_of(tmp_path / "run", train=rows))
    assert json.loads((run.directory / "rows" / "train.jsonl").read_text().splitlines()[1]) == {
        **ROWS[1],
        "kind": 1,
        "day": "2026-01-31",
        "size": 0.5,
        "photo": None,
        "note": None,
    }
    assert load_recipe(run.directory / "recipe.yaml").task.choices == ["0", "1"]
    assert train(recipe_of(tmp_path / "run", train=rows), resume=True).stages == run.stages


def test_labels_are_found_once_and_written_out(tmp_path):
    recipe = resolved(recipe_of(tmp_path, train=ROWS))
    assert recipe.task.choices == ["defect", "delay"]
    assert resolved(recipe) == recipe


def test_paths_count_from_the_recipes_folder_and_those_of_overrides_from_here(tmp_path, monkeypatch):
    folder, here = tmp_path / "recipes", tmp_path / "here"
    for place in (folder, here):
        place.mkdir()
        (place / "a.jsonl").write_text('{"prompt": "x", "completion": "y"}\n', encoding="utf-8")
    text = "name: own\ntask: {name: rows, train: a.jsonl, eval: owner/name}\nstages: {a: {method: lora}}\n"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(here)
    task = load_recipe(folder / "recipe.yaml").task
    assert (task.train, task.eval) == ((folder / "a.jsonl").as_posix(), "owner/name")
    assert load_recipe(folder / "recipe.yaml", ["task.train=a.jsonl"]).task.train == "a.jsonl"


def test_a_folder_of_a_published_task_counts_from_the_recipes_folder_and_is_kept_absolute(tmp_path, monkeypatch):
    folder, here = tmp_path / "recipes", tmp_path / "here"
    for place in (folder / "data" / "boolq", here / "data" / "boolq"):
        place.mkdir(parents=True)
        for split in ("train", "validation"):
            row = {"question": f"is it {split}", "passage": "it is", "answer": True}
            (place / f"{split}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    text = "name: own\ntask: {name: boolq, source: %s}\nstages: {a: {method: lora}}\n"
    (folder / "recipe.yaml").write_text(text % "data/boolq", encoding="utf-8")
    monkeypatch.chdir(here)
    assert load_recipe(folder / "recipe.yaml").task.source == (folder / "data/boolq").as_posix()
    typed = load_recipe(folder / "recipe.yaml", ["task.source=data/boolq"])
    assert typed.task.source == "data/boolq"
    assert resolved(typed).task.source == (here / "data/boolq").as_posix()
    (folder / "recipe.yaml").write_text(text % "wheel", encoding="utf-8")
    assert resolved(load_recipe(folder / "recipe.yaml")).task.source == "wheel"
    (folder / "manifest.json").write_text("{}", encoding="utf-8")  # a run of an older version
    (folder / "recipe.yaml").write_text(text % "../here/data/boolq", encoding="utf-8")
    assert load_recipe(folder / "recipe.yaml").task.source == "../here/data/boolq"


def test_a_run_of_a_path_from_here_keeps_it_absolute_and_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    file = (tmp_path / "a.jsonl").as_posix()
    for name, train_rows in (("text", "a.jsonl"), ("path", Path("a.jsonl"))):
        recipe = recipe_of(tmp_path / name, train=train_rows)
        run = train(recipe)
        assert load_recipe(run.directory / "recipe.yaml").task.train == file
        assert read_manifest(run.directory / "adapter").task["train"] == file
        assert train(recipe, resume=True).stages == run.stages


def test_a_study_that_sets_a_path_from_here_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "one.yaml").write_text(dump_recipe(recipe_of("unused", train="other.jsonl")))
    (tmp_path / "study.yaml").write_text(
        "name: s\narms: {one: {recipe: recipes/one.yaml, set: {task.train: a.jsonl, output: null}}}\n"
    )
    first = run_study("study.yaml")
    assert not first.failed
    assert run_study("study.yaml").comparison == first.comparison


def test_a_column_that_is_not_there_is_said_at_the_recipes_line(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,b\n", encoding="utf-8")
    task = 'task:\n  name: rows\n  train: a.csv\n  prompt: "{txt}"\n  answer: kind\n'
    text = f"name: own\n{task}stages: {{a: {{method: lora}}}}\n"
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(HeftError) as raised:
        load_recipe(tmp_path / "recipe.yaml")
    first, second = str(raised.value).splitlines()
    assert (
        f"recipe.yaml:5: task.prompt: there is no column 'txt' in {tmp_path / 'a.csv'}; did you mean 'text'?" in first
    )
    assert "recipe.yaml:6: task.answer: there is no column 'kind' in " in second
    assert second.endswith("known here: label, text")
