"""Run directories in states that no run leaves by itself: resumed to the same result, or refused in words."""

import json
import os
import shutil

import pytest

from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.results.summary import read_summaries
from heft.run.begun import require_free, require_same
from heft.run.train import train
from heft.runtime.reporter import Reporter
from resuming import START, results

RECIPE = START + (
    "  coarse: {method: lora, rank: 2, steps: 3, batch_size: 4}\n"
    "  fine: {method: reft, rank: 2, positions: l3, steps: 4, batch_size: 4}\n"
)


class Listener(Reporter):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


class EndsAt(Reporter):
    """Ends a run after a step of its second stage."""

    def step(self, what, done, total):
        if what == "fine" and done == 3:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A recipe, a run of it that is finished, and one that was ended within its second stage."""
    folder = tmp_path_factory.mktemp("odd")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    train(load_recipe(recipe, output=str(folder / "whole")))
    with pytest.raises(KeyboardInterrupt):
        train(load_recipe(recipe, output=str(folder / "begun")), EndsAt())
    return recipe, folder / "whole", folder / "begun"


@pytest.fixture
def resumed(made, tmp_path):
    """Copies one of the runs, changes the copy and resumes it; its directory, and its notes."""

    def run(which, change):
        recipe, *runs = made
        copy = tmp_path / "run"
        shutil.copytree(runs[which], copy)
        change(copy)
        listener = Listener()
        train(load_recipe(recipe, output=str(copy)), listener, resume=True)
        return copy, listener.notes

    return run


WHOLE, BEGUN = 0, 1


def about(run, **values):
    path = max(run.glob("checkpoints/1-fine/step-*")) / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def a_file(path):
    if path.is_dir():
        shutil.rmtree(path)
    path.write_text("")


def a_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def manifest(run, **values):
    path = run / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def base_summary(run, **values):
    path = run / "summary.json"
    stages = json.loads(path.read_text())["stages"]
    stages[0] |= values
    path.write_text(json.dumps({"stages": stages}))


@pytest.mark.parametrize(
    "change",
    [
        lambda run: None,
        lambda run: about(run, step="x"),
        *(pytest.param(lambda run, n=n: about(run, metrics_bytes=n), marks=pytest.mark.long) for n in (0, -1)),
        lambda run: about(run, sha256={}),
        lambda run: (run / "checkpoints" / "1-fine" / "step-00000009").write_text(""),
        pytest.param(lambda run: (run / "checkpoints" / "1-fine" / "step-of-mine").mkdir(), marks=pytest.mark.long),
        lambda run: shutil.rmtree(run / "records"),
        lambda run: shutil.rmtree(run / "checkpoints"),
        lambda run: (run / "summary.json").unlink(),
        lambda run: os.truncate(run / "records" / "base.jsonl", 300),
    ],
)
def test_a_run_with_a_part_gone_or_altered_ends_as_one_that_was_never_ended(made, resumed, change):
    run, _ = resumed(BEGUN, change)
    assert results(run) == results(made[WHOLE + 1])


@pytest.mark.parametrize(
    "values",
    [*(pytest.param(each, marks=pytest.mark.long) for each in ({"step": 1}, {"mine": 1})), {"metrics_bytes": 0}],
)
def test_an_altered_checkpoint_json_is_named(resumed, values):
    _, notes = resumed(BEGUN, lambda run: about(run, **values))
    assert any("is damaged (checkpoint.json is not what was written)" in note for note in notes)


def test_measurements_that_are_gone_are_missed(resumed):
    _, notes = resumed(BEGUN, lambda run: (run / "metrics.jsonl").unlink())
    assert "metrics.jsonl lacks what was logged before; curves will lack it too" in notes


def test_other_libraries_are_said(resumed):
    _, notes = resumed(BEGUN, lambda run: manifest(run, device="cuda:0", libraries={"torch": "1.0"}))
    [said] = [note for note in notes if note.startswith("begun with ")]
    assert "device cuda:0 (now cpu)" in said
    assert "torch 1.0 (now " in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: manifest(run, format=99), r"another version of heft \(format 99, this one writes 1\)"),
        (lambda run: (run / "adapter").mkdir(), r"adapter has no heft\.json, .*; move it away"),
        (lambda run: a_file(run / "adapter"), r"adapter has no heft\.json"),
        (lambda run: a_file(run / "records"), r"records cannot be written .*something else is in the way"),
        (lambda run: a_file(run / "checkpoints"), r"checkpoints.* cannot be written .*something else is in the way"),
        (
            lambda run: a_folder(run / ".lock"),
            r"run cannot be written \(Is a directory\): something else is in the way",
        ),
        (lambda run: a_folder(run / "metrics.jsonl"), r"metrics\.jsonl cannot be written .*in the way"),
        (
            lambda run: base_summary(run, accuracy=None),
            r"summary\.json was changed by hand or written by another version",
        ),
        (lambda run: base_summary(run, name=3), r"summary\.json was changed by hand or written by another version"),
        (lambda run: (run / "summary.json").write_text('{"stages": [["a"]]}'), r"summary\.json was changed by hand"),
    ],
)
def test_what_cannot_be_resumed_is_refused(resumed, change, said):
    with pytest.raises(HeftError, match=said):
        resumed(BEGUN, change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: (run / "summary.json").unlink(), "summary.json has not the figures of all stages"),
        (lambda run: (run / "adapter" / "heft.json").unlink(), r"adapter has no heft\.json"),
        (lambda run: (run / "adapter" / "fine" / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
        (
            lambda run: os.truncate(run / "adapter" / "fine" / "adapter_model.safetensors", 99),
            "is not what was written",
        ),
    ],
)
def test_a_finished_run_of_which_something_is_missing_is_not_given_back_as_whole(resumed, change, said):
    with pytest.raises(HeftError, match=said):
        resumed(WHOLE, change)


def test_a_finished_run_is_given_back(resumed):
    run, _ = resumed(WHOLE, lambda run: None)
    assert [summary.name for summary in read_summaries(run)] == ["base", "coarse", "fine"]


class Pieces(EndsAt):
    """What is said to be to come, and what comes."""

    def __init__(self, ends):
        self.ends, self.said, self.came = ends, [], []

    def expected(self, pieces):
        self.said = [piece.name for piece in pieces]

    def progress(self, what, total):
        self.came.append(what)
        return super().progress(what, total)

    def step(self, *news):
        if self.ends:
            super().step(*news)


def test_what_is_to_come_of_a_run_behind_a_frozen_stage_is_what_comes(made, tmp_path):
    recipe, whole, _ = made
    text = recipe.read_text().replace("coarse: {", f"taken: {{method: lora, from: {whole.as_posix()}}}\n  coarse: {{")
    (tmp_path / "recipe.yaml").write_text(text)
    resumable = load_recipe(tmp_path / "recipe.yaml", output=str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt):
        train(resumable, first := Pieces(ends=True))
    train(resumable, again := Pieces(ends=False), resume=True)
    assert first.came == first.said[:-1]  # but for the evaluation of the stage in which it was ended
    assert again.came == again.said == first.said[-2:]


def test_a_sweep_that_was_ended_is_not_taken_for_a_run_to_go_on_with(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: t\ntask: {name: whereabouts}\nstages: {fine: {method: reft, steps: 1}}\nsweep: {grid: {rank: [1, 2]}}\n"
    )
    with pytest.raises(HeftError, match="holds a sweep that is not finished, and a sweep begins again: replace it"):
        require_free(tmp_path)
    with pytest.raises(HeftError, match="holds a sweep, which cannot be resumed"):
        require_same(load_recipe(recipe, ["sweep=null"], output=str(tmp_path)))
