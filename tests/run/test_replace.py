"""--overwrite: a run makes room for another only if it is one, and only once the other is known to be sound."""

import os
import re
from pathlib import Path

import pytest

import heft
from commands import heft as command
from heft.run.replace import remove_run, require_replaceable
from heft.storage.locks import locked
from heft.sweep.run import sweep

STAGES = "{only: {method: lora, rank: 2, steps: 1}}"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(recipe_file, tmp_path):
    recipe = heft.load_recipe(recipe_file(STAGES), output=tmp_path / "run")
    heft.train(recipe)
    return recipe


def test_the_error_names_resume_and_overwrite(run):
    with pytest.raises(heft.HeftError, match="already holds a run: --resume shows .* again, --overwrite replaces it"):
        heft.train(run)
    (run.output_dir / "adapter" / "heft.json").unlink()
    with pytest.raises(heft.HeftError, match="not finished: resume it with --resume, replace it with --overwrite"):
        heft.train(run)


def test_a_run_is_replaced_by_one_of_another_recipe(run, recipe_file, tmp_path):
    other = heft.load_recipe(recipe_file("{first: {method: reft, steps: 1}}"), output=run.output_dir)
    assert [stage.name for stage in heft.train(other, overwrite=True).stages] == ["base", "first"]
    assert (run.output_dir / "adapter" / "first").is_dir()
    assert not (run.output_dir / "records" / "only.jsonl").exists()
    assert [path.name for path in tmp_path.glob("run*")] == ["run"]


def test_a_sweep_replaces_a_run_and_a_run_a_sweep(run, recipe_file):
    text = "sweep: {grid: {rank: [1, 2]}}"
    swept = heft.load_recipe(recipe_file("{first: {method: reft, steps: 1}}", text), output=run.output_dir)
    sweep(swept, overwrite=True)
    assert (run.output_dir / "winner.yaml").is_file()
    with pytest.raises(heft.HeftError, match="already holds a sweep: --overwrite replaces it"):
        sweep(swept)
    heft.train(run, overwrite=True)
    assert not (run.output_dir / "winner.yaml").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"stages": "{only: {method: lora, targets: [nothing]}}"},
        {"stages": STAGES, "task": "{name: rows, train: absent.jsonl, eval: absent.jsonl}"},
    ],
)
def test_a_recipe_that_is_not_sound_leaves_the_old_run_as_it_was(run, recipe_file, change):
    before = contents(run.output_dir)
    bad = heft.load_recipe(recipe_file(change["stages"], task=change.get("task", "{name: whereabouts}")))
    with pytest.raises(heft.HeftError):
        heft.train(bad.model_copy(update={"output": str(run.output_dir)}), overwrite=True)
    assert contents(run.output_dir) == before


def test_rows_that_the_old_run_alone_has_are_not_removed_with_it(run, tmp_path):
    rows = [{"q": f"Is it {n}?", "a": "yes" if n % 2 else "no"} for n in range(12)]
    task = {"name": "rows", "train": rows, "prompt": "{q} Say:", "answer": "a", "choices": "labels"}
    own = tmp_path / "own"
    heft.train(run, overrides={"task": task}, output=own)
    before, path = contents(own), own / "recipe.yaml"
    for words in (["train"], ["sweep", "--set", "sweep={grid: {rank: [1, 2]}}"], ["tune", "--budget", "1epochs"]):
        refused = command(*words, path, "--output", own, "--overwrite")
        assert refused.returncode == 2
        assert re.search(r"task\.train is \S+/own/rows/train\.jsonl, which lies in output \S+/own", refused.stderr)
    with pytest.raises(heft.HeftError, match="--overwrite would remove it: give another directory"):
        heft.train(path, output=own, overwrite=True)
    assert contents(own) == before
    assert heft.train(path, output=run.output_dir, overwrite=True).stages  # from where they are


def test_a_directory_that_is_no_run_is_left_alone(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: t")
    with pytest.raises(heft.HeftError, match="holds no run of heft"):
        remove_run(folder)
    assert (folder / "recipe.yaml").exists()


def test_a_run_with_other_files_is_left_alone(run):
    (run.output_dir / "notes.txt").write_text("mine")
    with pytest.raises(heft.HeftError, match=r"beside the run's \(notes.txt\)"):
        remove_run(run.output_dir)
    assert (run.output_dir / "adapter" / "heft.json").exists()


def test_the_page_that_a_run_was_reported_on_makes_room_with_it(run):
    page = heft.train(run, resume=True).report()
    assert page.parent == run.output_dir
    heft.train(run, overwrite=True)
    assert not page.exists()


@pytest.mark.parametrize("inside", [".", "records"])
def test_the_folder_that_one_is_in_is_not_removed(run, inside, monkeypatch):
    before = contents(run.output_dir)
    monkeypatch.chdir(run.output_dir / inside)
    there = Path(os.path.relpath(run.output_dir))
    with pytest.raises(heft.HeftError, match="is the folder that you are in, or holds it"):
        heft.train(run.model_copy(update={"output": str(there)}), overwrite=True)
    assert contents(run.output_dir) == before


def test_links_are_never_followed(run, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(run.output_dir)
    with pytest.raises(heft.HeftError, match="is a link to .*, and --overwrite follows none"):
        remove_run(link)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    for name in ("only.jsonl",):
        (run.output_dir / "records" / name).unlink()
    os.symlink(outside, run.output_dir / "records" / "only.jsonl")
    os.symlink(outside, run.output_dir / "checkpoints")
    remove_run(run.output_dir)
    assert not run.output_dir.exists()
    assert (outside / "precious").read_text() == "x"


def test_a_run_that_another_process_works_on_is_left_alone(run):
    with locked(run.output_dir, "run"), pytest.raises(heft.HeftError, match="another process"):
        remove_run(run.output_dir)
    assert (run.output_dir / "adapter" / "heft.json").exists()


def test_a_search_whose_run_another_process_works_on_is_left_alone(run):
    inner = run.output_dir / "run"
    with locked(inner, "run"), pytest.raises(heft.HeftError, match=f"another process is working on the run in {inner}"):
        remove_run(run.output_dir)
    assert (run.output_dir / "adapter" / "heft.json").exists()
    inner.rmdir()
    outside = run.output_dir.with_name("outside")
    outside.mkdir()
    inner.symlink_to(outside)
    with locked(outside, "run"):
        remove_run(run.output_dir)
    assert not run.output_dir.exists()


def test_a_free_directory_needs_no_replacing(tmp_path):
    require_replaceable(tmp_path / "new")
    remove_run(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_takes_it_and_not_together_with_resume(run):
    path = run.output_dir / "recipe.yaml"
    done = command("train", path, "--output", run.output_dir, "--overwrite")
    assert done.returncode == 0, done.stderr
    both = command("train", path, "--output", run.output_dir, "--overwrite", "--resume")
    assert both.returncode == 2
    assert "give one of them" in both.stderr
