"""Ctrl-C in the middle of a run."""

import signal
import subprocess
import time
from contextlib import contextmanager

import pytest

from commands import COMMAND, ENVIRONMENT, write_recipe

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


@pytest.mark.parametrize(("command", "sweep"), [("train", "null"), ("sweep", "{grid: {rank: [2, 3]}}")])
def test_ctrl_c_ends_training_with_one_message_and_exit_status_130(tmp_path, command, sweep):
    directory = tmp_path / "run"
    with started(command, write_recipe(tmp_path, STAGES, sweep), "--output", directory, cwd=tmp_path) as process:
        while process.poll() is None and not (directory / "metrics.jsonl").exists():  # the first step writes it
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert (process.returncode, stderr) == (130, "heft: interrupted\n")
    said = f"interrupted; what was done stays in {directory}, remove it before the next try"
    assert stdout.splitlines()[-1] == said
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
