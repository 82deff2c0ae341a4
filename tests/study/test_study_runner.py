"""Studies of the tiny model: what is run, what is reused, what is left."""

import gc
import json
import weakref

import pytest

from heft.errors import HeftError
from heft.recipe_io import load_recipe
from heft.reporter import Reporter
from heft.study import runner as study_runner
from heft.study.files import load_study
from heft.study.runner import run_study

ARMS = "arms: {lora: {recipe: lora.yaml}, heft: {recipe: heft.yaml, label: both}}\n"


class Listener(Reporter):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def runs(self):
        return [note.split(": ")[1] for note in self.notes if note.startswith("run ")]


def run(path, *overrides):
    listener = Listener()
    return run_study(load_study(path, overrides), listener), listener


def study_json(result):
    return json.loads((result.directory / "study.json").read_text())


@pytest.fixture
def train(monkeypatch):
    """Stands between a study and its runs: `fail` names arms whose runs raise, `seen` has the recipes that were run."""

    class Between:
        def __init__(self):
            self.fail, self.seen, self.original = {}, [], study_runner.train

        def __call__(self, recipe, reporter):
            arm = recipe.output_dir.parent.name
            self.seen.append((arm, recipe.seed))
            if arm in self.fail:
                recipe.output_dir.mkdir(parents=True)
                (recipe.output_dir / "recipe.yaml").write_text("begun")
                raise self.fail[arm]
            return self.original(recipe, reporter)

    between = Between()
    monkeypatch.setattr(study_runner, "train", between)
    return between


def test_a_study_runs_every_arm_with_every_seed_and_compares_them(study_file, train):
    result, listener = run(study_file(f"seeds: [3, 5]\nreference: lora\nbase: true\n{ARMS}"))
    assert train.seen == [("lora", 3), ("heft", 3), ("lora", 5), ("heft", 5)]
    about = study_json(result)
    assert (about["format"], about["name"], about["reference"], about["budget"]) == (1, "s", "lora", {})
    assert [(arm["name"], arm["label"], arm["runs"], arm["failed"]) for arm in about["arms"]] == [
        ("lora", "lora", ["lora/seed-3", "lora/seed-5"], []),
        ("heft", "both", ["heft/seed-3", "heft/seed-5"], []),
        ("base", "the model before any stage", ["lora/seed-3", "lora/seed-5"], []),
    ]
    written = json.loads((result.directory / "comparison.json").read_text())
    assert written == json.loads(json.dumps(result.comparison.to_dict()))
    assert [arm.name for arm in result.comparison.arms] == ["lora", "heft", "base"]
    assert (result.directory / "comparison.md").read_text().strip()
    recipe = load_recipe(result.directory / "heft" / "seed-5" / "recipe.yaml")
    assert (recipe.name, recipe.seed) == ("s-heft", 5)

    _, listener = run(study_file(f"seeds: [3, 5]\nreference: lora\nbase: true\n{ARMS}"))
    assert len(train.seen) == 4
    assert "4 of 4 runs are finished already" in listener.notes

    run(study_file(f"seeds: [3, 5, 8]\nreference: lora\nbase: true\n{ARMS}"))
    assert train.seen[4:] == [("lora", 8), ("heft", 8)]


def test_a_failed_run_is_noted_is_not_fatal_and_is_tried_again(study_file, train):
    train.fail = {"lora": RuntimeError("out of memory")}
    result, _ = run(study_file(ARMS))
    assert result.failed == {("lora", 0): "RuntimeError: out of memory"}
    lora, heft = study_json(result)["arms"]
    assert (lora["runs"], lora["failed"]) == ([], [{"seed": 0, "error": "RuntimeError: out of memory"}])
    assert heft["runs"] == ["heft/seed-0"]
    train.fail = {}
    result, listener = run(study_file(ARMS))
    assert train.seen == [("lora", 0), ("heft", 0), ("lora", 0)]
    assert any("lora/seed-0 was not finished; it is removed and run again" in note for note in listener.notes)
    assert [arm["failed"] for arm in study_json(result)["arms"]] == [[], []]


def test_where_every_run_fails_the_errors_are_told(study_file, train):
    train.fail = {"lora": HeftError("no such model"), "heft": HeftError("no such data")}
    with pytest.raises(
        HeftError, match=r"(?s)no finished run.*lora, seed 0: no such model.*heft, seed 0: no such data"
    ):
        run(study_file(ARMS))


def test_an_interrupted_study_goes_on_where_it_was(study_file, train):
    train.fail = {"heft": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run(study_file(ARMS))
    train.fail = {}
    result, _ = run(study_file(ARMS))
    assert train.seen == [("lora", 0), ("heft", 0), ("heft", 0)]
    assert [len(arm["runs"]) for arm in study_json(result)["arms"]] == [1, 1]


def test_a_finished_run_of_another_recipe_is_never_removed_or_mixed_in(study_file, train):
    result, _ = run(study_file("arms: {lora: {recipe: lora.yaml}}\n"))
    before = (result.directory / "lora/seed-0/summary.json").read_bytes()
    with pytest.raises(HeftError, match=r"another recipe \(stages\.coarse\.rank: 2, not 4\)"):
        run(study_file("arms: {lora: {recipe: lora.yaml, set: {stages.coarse.rank: 4}}}\n"))
    assert (result.directory / "lora/seed-0/summary.json").read_bytes() == before
    assert len(train.seen) == 1


def test_a_directory_that_is_no_study_is_left_alone(study_file, tmp_path, train):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(HeftError, match="is not empty"):
        run(study_file(ARMS))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    assert train.seen == []


def test_models_do_not_outlive_their_runs(study_file, monkeypatch):
    import heft.runner

    alive, load_base = [], heft.runner.load_base

    def remember(settings):
        assert not [model for model in alive if model() is not None]
        base = load_base(settings)
        alive.append(weakref.ref(base.model))
        return base

    monkeypatch.setattr(heft.runner, "load_base", remember)
    run(study_file(f"seeds: [0, 1]\n{ARMS}"))
    gc.collect()
    assert [model() for model in alive] == [None] * 4
