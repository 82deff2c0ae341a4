"""Hints and labels of runs that were trained, read back from their directories."""

import json

import pytest

import heft
from heft.compare.hints import hints_of_run
from heft.compare.runs import read_run
from heft.recipe.files import load_recipe
from heft.tasks.whereabouts import PLACES


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One that is too short to learn anything, and its directory."""
    folder = tmp_path_factory.mktemp("runs")
    text = """
name: t
model: {name: "random:tiny-llama", device: cpu, dtype: float32}
task: {name: whereabouts, train_size: 24, eval_size: 20}
stages:
  coarse: {method: lora, rank: 2, steps: 2, batch_size: 4}
  fine: {method: reft, rank: 2, positions: l2, epochs: 1, batch_size: 12}
"""
    (folder / "recipe.yaml").write_text(text)
    return heft.train(load_recipe(folder / "recipe.yaml", output=str(folder / "run"))).directory


def test_a_run_that_is_too_short_says_so_with_the_setting_to_write(runs):
    hints = hints_of_run(read_run(runs))
    short = [(hint.stage, hint.do) for hint in hints if hint.rule == "too_few_steps"]
    assert short == [("coarse", "Write `stages.coarse.steps: 50`."), ("fine", "Write `stages.fine.epochs: 25`.")]


def test_a_run_whose_stages_rose_says_nothing(runs, tmp_path):
    """The same run with the answers of a model that learned, and enough steps on record."""
    path = tmp_path / "run"
    path.mkdir()
    for file in ("recipe.yaml", "manifest.json"):
        (path / file).write_bytes((runs / file).read_bytes())
    (path / "records").mkdir()
    stages = json.loads((runs / "summary.json").read_text())["stages"]
    for stage, wrong in zip(stages, (14, 7, 1), strict=True):
        rows = [json.loads(line) for line in (runs / "records" / f"{stage['name']}.jsonl").read_text().splitlines()]
        for place, row in enumerate(rows):
            row["prediction"] = row["gold"] if place >= wrong else (row["gold"] + 1) % 4
            row["correct"] = place >= wrong
        (path / "records" / f"{stage['name']}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = [row["prediction"] for row in rows]
        golds = [row["gold"] for row in rows]
        recall = [sum(r["correct"] for r in rows if r["gold"] == g) / golds.count(g) for g in set(golds)]
        stage |= {
            "accuracy": 1 - wrong / 20,
            "balanced_accuracy": sum(recall) / len(recall),
            "predictions": {str(i): given.count(i) / 20 for i in range(4)},
            "steps": 60 if stage["steps"] else 0,
        }
    (path / "summary.json").write_text(json.dumps({"stages": stages}))
    assert hints_of_run(read_run(path)) == []


def test_a_summary_has_the_labels_and_the_manifest_the_size_of_the_base(runs):
    run = read_run(runs)
    assert [each.summary.labels for each in run.evaluations] == [list(PLACES[:4])] * 3
    assert run.manifest["base"]["parameters"] > 10_000
