"""A run that was interrupted, at whatever moment, resumes to the result that it would have had."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

import resuming
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.run.train import train
from heft.runtime import signals
from heft.runtime.reporter import Reporter
from heft.storage.locks import locked
from resuming import in_a_child, results, run, was_killed

KILLS = 20


class Notes(Reporter):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return resuming.write(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(recipe):
    """The run that nothing ended: its directory."""
    directory = recipe.parent / "whole"
    run(recipe, directory)
    return directory


def killed_when(call_name: str, count: int):
    """In the child: SIGKILL at the count-th call of that function of os, before it does anything."""
    original, calls = getattr(os, call_name), []

    def call(*arguments, **options):
        calls.append(None)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(os, call_name, call)


@pytest.mark.long  # torture/kill.py does so a hundred times
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(recipe, whole, tmp_path):
    random_moments = random.Random(0)
    began = time.monotonic()
    child = in_a_child(lambda: run(recipe, tmp_path / "timed"))
    assert not was_killed(child)
    duration = time.monotonic() - began
    kills, finished, directory = 0, 0, tmp_path / "run-0"
    while kills < KILLS:
        child = in_a_child(lambda: run(recipe, directory))  # noqa: B023 - the child has its own copy of the name
        time.sleep(random_moments.uniform(0.02, 0.5) * duration)
        os.kill(child, signal.SIGKILL)
        if was_killed(child):
            kills += 1
        else:
            assert results(directory) == results(whole)
            finished, directory = finished + 1, tmp_path / f"run-{finished + 1}"
    run(recipe, directory)
    assert results(directory) == results(whole)


@pytest.mark.parametrize(
    "call", ["rename", *(pytest.param(each, marks=pytest.mark.long) for each in ("replace", "fsync"))]
)
def test_killed_in_the_middle_of_a_write_a_run_ends_as_if_it_had_not_been(recipe, whole, tmp_path, call):
    for count in (2, 7):
        directory = tmp_path / f"run-{count}"

        def work(count=count, directory=directory):
            killed_when(call, count)
            run(recipe, directory)

        assert was_killed(in_a_child(work))
        run(recipe, directory)
        assert results(directory) == results(whole)


def ended_after(recipe: Path, directory: Path, writes: int) -> None:
    """A run that is killed when it makes its folder of that number visible (checkpoints, then the adapter)."""

    def work():
        killed_when("rename", writes)
        run(recipe, directory)

    assert was_killed(in_a_child(work))


@pytest.fixture(scope="module")
def ended_runs(recipe):
    """Makes runs that were killed at their writes, each once; by the number of writes."""
    made = {}

    def make(writes: int) -> Path:
        if writes not in made:
            made[writes] = recipe.parent / f"ended-{writes}"
            ended_after(recipe, made[writes], writes)
        return made[writes]

    return make


@pytest.fixture
def ended(ended_runs, tmp_path):
    """A copy of such a run, which a test may change."""
    return lambda writes: shutil.copytree(ended_runs(writes), tmp_path / "run")


def checkpoints(directory: Path) -> list[str]:
    folder = directory / "checkpoints"
    return sorted(str(each.relative_to(folder)) for each in folder.glob("*/*"))


@pytest.mark.parametrize(
    "damage", ["altered", "lost", *(pytest.param(each, marks=pytest.mark.long) for each in ("cut short", "more"))]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(recipe, whole, ended, damage):
    directory = ended(5)
    assert checkpoints(directory) == [
        "0-coarse/step-00000003",
        "0-coarse/step-00000004",
        "0-coarse/step-00000005.partial",
    ]
    newest = directory / "checkpoints/0-coarse/step-00000004"
    tensors = newest / "tensors.safetensors"
    content = tensors.read_bytes()
    if damage == "altered":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut short":
        tensors.write_bytes(content[: len(content) // 2])
    elif damage == "lost":
        (newest / "values.json").unlink()
    else:
        (newest / "stranger.txt").write_text("?")
    notes = Notes()
    resume(recipe, directory, notes)
    damaged = [note for note in notes.said if "is damaged" in note]
    assert len(damaged) == 1
    assert str(newest) in damaged[0]
    assert "resuming stage coarse after step 3" in notes.said
    assert results(directory) == results(whole)


def test_a_stage_whose_adapter_was_damaged_goes_on_from_its_last_steps(recipe, whole, ended):
    directory = ended(13)  # ten steps of coarse, of which nine are kept, itself, two steps of fine
    trained = directory / "checkpoints/0-coarse/trained"
    (trained / "coarse/adapter_model.safetensors").write_bytes(b"")
    notes = Notes()
    resume(recipe, directory, notes)
    assert sum(str(trained) in note for note in notes.said) == 1
    assert "resuming stage coarse after step 9" in notes.said
    assert results(directory) == results(whole)


def test_altered_records_are_evaluated_again(recipe, whole, ended):
    directory = ended(13)
    records = directory / "records/coarse.jsonl"
    records.write_text("\n".join(records.read_text().splitlines()[:-1]) + "\n")
    run(recipe, directory)
    assert results(directory) == results(whole)


def resume(recipe, directory, notes, *settings):
    return train(load_recipe(recipe, settings, output=str(directory)), notes, resume=True)


def test_a_finished_run_is_given_back_as_it_is(recipe, whole):
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file() and file.name != ".lock"}
    again = resume(recipe, whole, Notes())
    assert {file: file.stat().st_mtime_ns for file in before} == before
    figures = json.loads((whole / "summary.json").read_text())["stages"]
    assert [stage.accuracy for stage in again.stages] == [stage["accuracy"] for stage in figures]


def test_another_recipe_or_other_data_is_refused_and_nothing_is_changed(recipe, ended):
    directory = ended(3)
    before = checkpoints(directory)
    with pytest.raises(HeftError, match=r"another recipe \(stages.fine.rank: 2, not 3\)"):
        resume(recipe, directory, Notes(), "stages.fine.rank=3")
    manifest = directory / "manifest.json"
    told = json.loads(manifest.read_text())
    told["data"]["train"]["fingerprint"] = "0" * 16
    manifest.write_text(json.dumps(told))
    with pytest.raises(HeftError, match="begun with other data"):
        resume(recipe, directory, Notes())
    assert checkpoints(directory) == before


def test_when_it_is_kept_and_where_it_is_written_may_change(recipe, whole, ended, tmp_path):
    shutil.move(ended(13), tmp_path / "moved")
    resume(recipe, tmp_path / "moved", Notes(), "checkpoint.every_steps=null", "checkpoint.keep=1")
    assert results(tmp_path / "moved") == results(whole)


def test_without_resume_a_begun_run_is_refused_with_the_way_out(recipe, ended):
    with pytest.raises(HeftError, match="not finished: resume it with --resume"):
        train(load_recipe(recipe, output=str(ended(3))))


def test_a_second_process_on_the_same_directory_is_refused(recipe, ended):
    directory = ended(3)
    with locked(directory, "run"), pytest.raises(HeftError, match="another process is working on the run in"):
        run(recipe, directory)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM])
def test_a_signal_ends_training_after_its_step_and_keeps_that_step(recipe, whole, tmp_path, number):
    class SignalAtStep(Notes):
        def step(self, what, done, total):
            if (what, done) == ("fine", 2):
                os.kill(os.getpid(), number)

    loaded = load_recipe(recipe, ["checkpoint.every_steps=null"], output=str(tmp_path / "run"))
    with signals.handling(), pytest.raises(KeyboardInterrupt):
        train(loaded, SignalAtStep())
    assert signals.last() == number
    kept = [each for each in checkpoints(tmp_path / "run") if "step" in each]
    assert kept == ["1-fine/step-00000002"]
    run(recipe, tmp_path / "run")
    assert results(tmp_path / "run") == results(whole)


def test_a_person_s_own_files_are_never_taken_for_a_begun_run(recipe, tmp_path):
    directory = tmp_path / "mine"
    directory.mkdir()
    shutil.copy(recipe, directory / "recipe.yaml")
    with pytest.raises(HeftError, match="is not empty; give another"):
        run(recipe, directory)
    assert [each.name for each in directory.iterdir()] == ["recipe.yaml"]
