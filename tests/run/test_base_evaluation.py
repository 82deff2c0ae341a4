"""The evaluation of a base is taken from a run that has the same, and from no other."""

import json
import shutil

import pytest

import heft
from heft.recipe.files import load_recipe
from heft.results.records import read_records
from heft.results.summary import read_summaries
from heft.run.base_evaluation import find_base_evaluation
from heft.run.train import train
from heft.runtime.reporter import Reporter
from resuming import START

RECIPE = START + "  fine: {method: reft, rank: 2, positions: l3, steps: 1}\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "recipe.yaml"
    path.write_text(RECIPE)
    return heft.train(load_recipe(path, [f"output={path.parent / 'run'}"])).directory


def found(run, *overrides, **manifest):
    about = json.loads((run / "manifest.json").read_text())
    return find_base_evaluation([run], load_recipe(run / "recipe.yaml", overrides), {**about, **manifest})


def test_it_is_taken_whatever_is_trained(run):
    path, summary, records = found(run, "seed=5", "stages.fine.rank=4", "output=elsewhere")
    assert (path, summary.name, summary.n) == (run, "base", 10)
    assert records == read_records(run / "records" / "base.jsonl")


@pytest.mark.parametrize(
    "overrides",
    ["model.attention=eager", "task.eval_size=9", "evaluation.normalize=tokens", "model.dtype=bfloat16"],
)
def test_it_is_not_taken_where_settings_differ(run, overrides):
    assert found(run, overrides) is None


@pytest.mark.parametrize("key", ["heft_version", "libraries", "device", "base", "data"])
def test_it_is_not_taken_from_another_version_machine_model_or_rows(run, key):
    other = {"data": {"eval": {"rows": 10, "fingerprint": "0"}}}.get(key, "other")
    assert found(run, **{key: other}) is None


@pytest.mark.parametrize("unlike", [{"dtype": "bfloat16"}, {"attention": "eager"}])
def test_it_is_not_taken_where_auto_came_to_something_else(run, unlike):
    base = json.loads((run / "manifest.json").read_text())["base"]
    assert found(run, base=base) is not None
    assert found(run, base=base | unlike) is None


@pytest.mark.parametrize("file", ["records/base.jsonl", "summary.json", "recipe.yaml", "manifest.json"])
@pytest.mark.parametrize("content", [None, "", "{}", "[1]"])
def test_a_run_without_it_is_passed_over(run, tmp_path, file, content):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    recipe, manifest = load_recipe(run / "recipe.yaml"), json.loads((run / "manifest.json").read_text())
    (copy / file).unlink() if content is None else (copy / file).write_text(content)
    assert find_base_evaluation([tmp_path / "none", copy], recipe, manifest) is None
    path, _, _ = find_base_evaluation([copy, run], recipe, manifest)
    assert path == run


def test_a_run_that_takes_it_ends_as_one_that_evaluates_it(run, tmp_path):
    class Listener(Reporter):
        notes = []

        def note(self, text):
            self.notes.append(text)

    again = train(load_recipe(run / "recipe.yaml", [f"output={tmp_path / 'run'}"]), Listener(), base_from=[run])
    assert f"the base is evaluated already, in {run}" in Listener.notes
    for name in ("base", "fine"):
        assert (again.directory / "records" / f"{name}.jsonl").read_bytes() == (
            run / "records" / f"{name}.jsonl"
        ).read_bytes()
    assert again.stages[0] == read_summaries(run)[0]
