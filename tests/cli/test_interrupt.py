"""Ctrl-C, and SIGTERM, in the middle of a run."""

import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest

from commands import COMMAND, ENVIRONMENT
from heft.cli.show import explain_interrupts, resuming
from tiny_recipe import write_recipe

STAGES = "{fine: {method: reft, rank: 2, positions: l2, steps: 1000000, batch_size: 4}}"


@contextmanager
def started(*arguments, cwd):
    """A command at work, which hears Ctrl-C even where the tests themselves, in the background, do not."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("command", "sweep", "number", "then"),
    [
        (
            "train",
            "null",
            signal.SIGINT,
            "progress is saved in {directory}. Resume with: heft train {recipe} --output {directory} --resume",
        ),
        pytest.param(
            *(
                "train",
                "null",
                signal.SIGTERM,
                "progress is saved in {directory}. Resume with: heft train {recipe} --output {directory} --resume",
            ),
            marks=pytest.mark.long,
        ),
        (
            "sweep",
            "{grid: {rank: [2, 3]}}",
            signal.SIGINT,
            "this cannot be resumed: run it again with --overwrite, which replaces {directory}",
        ),
    ],
)
def test_a_signal_ends_training_with_one_message_and_its_exit_status(tmp_path, command, sweep, number, then):
    directory, recipe = tmp_path / "run", write_recipe(tmp_path, STAGES, f"sweep: {sweep}")
    with started(command, recipe, "--output", directory, cwd=tmp_path) as process:
        while process.poll() is None and not (directory / "metrics.jsonl").exists():  # the first step writes it
            time.sleep(0.1)
        process.send_signal(number)
        stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (128 + number, "heft: interrupted\n")
    then = then.format(recipe=recipe, directory=directory)
    assert stdout.splitlines()[-1] == f"interrupted; {then}"
    assert (directory / "recipe.yaml").is_file()
    assert not list(directory.rglob("*.partial"))
    assert not (directory / "adapter").exists()


def test_ctrl_c_before_there_is_a_directory_leaves_nothing(tmp_path):
    path = write_recipe(tmp_path, STAGES)
    with started("train", path, cwd=tmp_path) as process:
        assert process.stdout.readline() == "importing torch and transformers\n"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout, stderr) == (130, "", "heft: interrupted\n")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_what_was_to_be_replaced_is_no_progress_where_it_still_stands(tmp_path, is_replaced):
    heard = SimpleNamespace(notes=[], note=lambda text: heard.notes.append(text))
    (tmp_path / "manifest.json").write_text("{}")
    with suppress(KeyboardInterrupt), explain_interrupts(tmp_path, heard, "heft train r.yaml --resume", True):
        if is_replaced:
            (tmp_path / "manifest.json").unlink()
        raise KeyboardInterrupt
    saved = f"progress is saved in {tmp_path}. Resume with: heft train r.yaml --resume"
    as_it_was = f"interrupted before anything was replaced; {tmp_path} is as it was"
    assert heard.notes == [f"interrupted; {saved}" if is_replaced else as_it_was]


def test_sigterm_in_a_study_keeps_the_step_and_says_how_to_go_on(tmp_path):
    recipe = write_recipe(tmp_path, STAGES)
    study = tmp_path / "study.yaml"
    study.write_text(f"name: s\narms: {{a: {{recipe: {recipe.name}}}}}\n")
    directory = tmp_path / "out"
    with started("compare", study, "--output", directory, cwd=tmp_path) as process:
        while process.poll() is None and not (directory / "a" / "seed-0" / "metrics.jsonl").exists():
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (128 + signal.SIGTERM, "heft: interrupted\n")
    command = f"heft compare {study} --output {directory}"
    assert stdout.splitlines()[-1] == f"interrupted; progress is saved in {directory}. Resume with: {command}"
    assert len(list((directory / "a" / "seed-0" / "checkpoints" / "0-fine").glob("step-*"))) == 1


def test_the_command_to_resume_with_keeps_what_was_typed():
    assert resuming(["train", "a b.yaml", "--overwrite"]) == "heft train 'a b.yaml' --resume"
    assert resuming(["train", "--resume", "--", "-a.yaml"]) == "heft train --resume -- -a.yaml"
