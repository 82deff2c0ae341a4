"""`heft tune` as a person uses it."""

import json
import signal
import subprocess
import time

import pytest

from commands import COMMAND, ENVIRONMENT, heft
from searches import STAGES, TASK
from tiny_recipe import write_recipe

TUNE = "tune: {arms: [reft], rungs: 2, keep: 2, holdout: 0.3, reft: {rank: [2], learning_rate: [1e-2, 3e-2]}}"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A recipe, the directory of its search, and the finished command."""
    folder = tmp_path_factory.mktemp("tune")
    path = write_recipe(folder, STAGES, TUNE, task=TASK)
    return path, folder / "out", heft("tune", path, "--budget", "6e9flop", "--output", folder / "out")


def test_the_table_has_the_arms_and_the_last_line_the_places(tuned):
    _, directory, done = tuned
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads((directory / "tune.json").read_text())
    (row,) = [line.split() for line in done.stdout.splitlines() if line.strip().startswith("reft (taken)")]
    assert row[2:4] == [f"{100 * found['arms'][0]['loss']:.1f}", "%"]
    assert "reft has the fewest expected errors" in done.stdout
    assert "results on 8 evaluation examples" in done.stdout
    last = f"search: {directory}   best: {directory / 'best.yaml'}   run: {directory / 'run'}"
    assert done.stdout.splitlines()[-1] == last


def test_a_finished_search_is_shown_again_as_a_document(tuned):
    path, directory, _ = tuned
    done = heft("tune", path, "--budget", "6e9flop", "--output", directory, "--resume", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["command"], found["winner"], found["run"]) == ("tune", "reft", str(directory / "run"))
    assert [arm["arm"] for arm in found["arms"]] == ["reft"]
    assert [stage["name"] for stage in found["stages"]] == ["base", "fine"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "soon"], "expected a time (90s, 30m, 2h)"),
        (["--budget", "5m", "--set", "tune.arms=[full]"], "tune.arms[0]: expected one of lora, reft, lora+reft"),
        (["--budget", "5m", "--set", "sweep.grid.rank=[2]"], "has a `sweep`; run it with heft sweep"),
        (["--budget", "5m", "--set", "tune.lora.steps=[2]"], "tune.lora.steps: cannot be tried"),
        (["--budget", "5m", "--resume", "--overwrite"], "give one of them"),
    ],
)
def test_what_is_wrong_is_one_message_and_leaves_nothing(tmp_path, options, message):
    path = write_recipe(tmp_path, STAGES, TUNE, task=TASK)
    done = heft("tune", path, *options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_with_a_search_is_left_alone(tuned):
    path, directory, _ = tuned
    done = heft("tune", path, "--budget", "6e9flop", "--output", directory)
    assert done.returncode == 2
    assert "holds a search of heft tune: go on with --resume, replace it with --overwrite" in done.stderr
    done = heft("train", path, "--output", directory, "--resume")
    assert done.returncode == 2
    assert "holds a search, which heft tune resumes" in done.stderr


def test_ctrl_c_leaves_the_best_so_far_and_says_how_to_go_on(tmp_path):
    path = write_recipe(tmp_path, STAGES, TUNE, task=TASK)
    words = [*COMMAND, "tune", str(path), "--budget", "150e9flop", "--output", str(tmp_path / "out")]
    words += ["--set", "tune.most_epochs=5000", "--set", "tune.rungs=3", "--set", "tune.keep=4"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)
    heard = []
    for line in process.stdout:
        heard.append(line)
        if "reft, round 1" in line and sum("round 1" in each for each in heard) == 1:
            time.sleep(0.5)  # so that it trains again
            process.send_signal(signal.SIGINT)
    text = "".join(heard)
    assert process.wait() == 130, text
    assert f"best so far: {tmp_path / 'out' / 'best.yaml'}" in text
    assert f"Resume with: heft tune {path} --budget 150e9flop" in text
    assert (tmp_path / "out" / "table.md").is_file()
    assert not (tmp_path / "out" / "run").exists()
