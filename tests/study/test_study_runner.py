"""Studies of the tiny model: what is run, what is reused, what is left."""

import gc
import json
import weakref

import pytest

from heft.cluster import alone
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.runtime.reporter import Reporter
from heft.storage.locks import locked
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
            self.fail, self.seen, self.original = {}, [], alone.train

        def __call__(self, recipe, reporter, resume, base_from):
            arm = recipe.output_dir.parent.name
            self.seen.append((arm, recipe.seed))
            if arm in self.fail:
                recipe.output_dir.mkdir(parents=True)
                (recipe.output_dir / "recipe.yaml").write_text("begun")
                raise self.fail[arm]
            return self.original(recipe, reporter, resume, base_from)

    between = Between()
    monkeypatch.setattr(alone, "train", between)
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
    assert any("lora/seed-0 was begun with another recipe and not finished" in note for note in listener.notes)
    assert [arm["failed"] for arm in study_json(result)["arms"]] == [[], []]


GONE = """\
reference: heft
arms:
  heft: {recipe: heft.yaml, set: {task: {name: boolq, source: %s}}}
  lora: {recipe: lora.yaml, budget: {flops_of: heft}}
  other: {recipe: lora.yaml, budget: {steps: 2}}
"""


def test_an_arm_whose_budget_cannot_be_told_fails_with_all_seeds_and_the_others_run(study_file, tmp_path, train):
    gone = GONE % (tmp_path / "gone").as_posix()
    result, listener = run(study_file("seeds: [0, 1]\n" + gone))
    assert [seen for seen in train.seen if seen[0] != "heft"] == [("other", 0), ("other", 1)]
    heft, lora, other = study_json(result)["arms"]
    assert (lora["runs"], [failed["seed"] for failed in lora["failed"]]) == ([], [0, 1])
    assert lora["failed"][0]["error"].startswith("its budget is what arm 'heft' takes, which cannot be computed: ")
    assert (other["runs"], other["failed"]) == (["other/seed-0", "other/seed-1"], [])
    assert any(note.startswith("lora cannot be run: its budget is what arm 'heft' takes") for note in listener.notes)
    table = (result.directory / "comparison.md").read_text()
    assert "- lora, seeds 0, 1, failed and are not counted: its budget is what arm 'heft' takes" in table
    assert "- The study’s reference, heft, has no finished run." in table


def test_runs_of_an_earlier_budget_are_not_counted_where_the_new_one_cannot_be_told(study_file, tmp_path, train):
    run(
        study_file(
            "arms: {lora: {recipe: lora.yaml, budget: {steps: 1}}, other: {recipe: lora.yaml, budget: {steps: 2}}}\n"
        )
    )
    result, _ = run(study_file(GONE % (tmp_path / "gone").as_posix()))
    assert [arm.name for arm in result.comparison.arms] == ["other"]
    assert (result.directory / "lora/seed-0/summary.json").is_file()


def test_where_no_budget_can_be_told_nothing_is_written(study_file, tmp_path, train):
    text = f"budget: {{steps: 3}}\nset: {{task: {{name: boolq, source: {(tmp_path / 'gone').as_posix()}}}}}\n{ARMS}"
    with pytest.raises(HeftError, match=r"no arm of .*study.yaml can be run:\nlora, heft: .*gone"):
        run(study_file(text))
    assert not (tmp_path / "out").exists()


def test_what_a_budget_of_spent_flops_grants_is_what_the_run_spends(study_file):
    arms = "arms: {lora: {recipe: lora.yaml}, heft: {recipe: heft.yaml, budget: {spent_flops_of: lora}}}\n"
    result, _ = run(study_file(arms))
    lora, heft = (arm.costs for arm in result.comparison.arms)
    assert heft.flops == pytest.approx(study_json(result)["budget"]["heft"]["reached"], rel=0.02)  # a part of an epoch
    assert heft.flops == pytest.approx(lora.flops, rel=0.1)
    assert heft.plain_flops > 1.1 * lora.plain_flops


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


def test_another_study_does_not_take_a_directory_and_its_unfinished_runs(study_file, tmp_path, train):
    train.fail = {"heft": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run(study_file(ARMS))
    train.fail = {}
    there = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(HeftError, match=r"out is of the study 's'; give 'other' another with --output DIR"):
        run(study_file("arms: {heft: {recipe: lora.yaml}}\n"), "name=other")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == there


@pytest.mark.parametrize("begun", [False, True])
def test_two_processes_never_work_on_one_study(study_file, tmp_path, train, begun):
    path = study_file(ARMS)
    with locked(tmp_path / "out", "study"):
        if begun:
            (tmp_path / "out" / "study.yaml").write_text("name: s\n")
        with pytest.raises(HeftError, match="another process is working on the study"):
            run(path)
    assert train.seen == []


def test_models_do_not_outlive_their_runs(study_file, monkeypatch):
    import heft.run.train

    alive, load_base = [], heft.run.train.load_base

    def remember(*settings):
        assert not [model for model in alive if model() is not None]
        base = load_base(*settings)
        alive.append(weakref.ref(base.model))
        return base

    monkeypatch.setattr(heft.run.train, "load_base", remember)
    run(study_file("seeds: [0, 1]\narms: {heft: {recipe: heft.yaml}}\n"))
    gc.collect()
    assert [model() for model in alive] == [None] * 2


def test_a_run_that_was_interrupted_goes_on_where_it_was(study_file):
    class Interrupts(Listener):
        def step(self, what, done, total):
            if what == "fine":
                raise KeyboardInterrupt

    path = study_file(ARMS)
    with pytest.raises(KeyboardInterrupt):
        run_study(load_study(path), Interrupts())
    result, listener = run(path)
    assert "stage coarse is already trained" in listener.notes
    assert not any("removed" in note for note in listener.notes)
    assert result.failed == {}


def test_the_base_is_evaluated_once_for_runs_that_share_it(study_file):
    other = "  other: {recipe: lora.yaml, set: {evaluation.batch_size: 4}}\n"
    result, listener = run(study_file(f"seeds: [0, 1]\narms:\n  lora: {{recipe: lora.yaml}}\n{other}"))
    assert [note for note in listener.notes if note.startswith("the base is evaluated already")] == [
        f"the base is evaluated already, in {result.directory / run}" for run in ("lora/seed-0", "other/seed-0")
    ]
    first, second = (result.directory / "lora" / f"seed-{seed}" / "records" / "base.jsonl" for seed in (0, 1))
    assert first.read_bytes() == second.read_bytes()
