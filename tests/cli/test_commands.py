"""The command line as a person uses it, each command in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from commands import COMMAND, heft
from heft.results.records import read_records
from tiny_recipe import write_recipe

ROOT = Path(__file__).parents[2]
STAGES = (
    "{coarse: {method: lora, rank: 2, steps: 2, batch_size: 4}, "
    "fine: {method: reft, rank: 2, positions: l2, steps: 2, batch_size: 4}}"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    path = write_recipe(folder, STAGES)
    return path, folder / "run", heft("train", path, "--output", folder / "run", "--set", "seed=3")


def test_a_working_directory_that_was_removed_is_said(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd "{gone}"; rmdir "{gone}"; exec "$@"'
    done = subprocess.run(["sh", "-c", script, "sh", *COMMAND, "recipes"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("heft: the folder that you are in cannot be found (No such file or directory); it")


def test_train_prints_the_tables_and_the_figures_of_the_run(run):
    _, directory, done = run
    assert done.returncode == 0, done.stderr
    assert "stage coarse" in done.stdout
    assert "stage fine" in done.stdout
    for stage in json.loads((directory / "summary.json").read_text())["stages"]:
        assert f"{100 * stage['accuracy']:.1f} %" in done.stdout
        assert f"{stage['trainable_parameters']:,}" in done.stdout
    assert "hint: Stage coarse took 2 optimizer steps." in done.stdout
    assert "Write `stages.fine.steps: 50`." in done.stdout
    assert "seed: 3" in (directory / "recipe.yaml").read_text()
    assert done.stderr == ""


def test_eval_repeats_the_figure_of_the_table_and_writes_the_same_records(run, tmp_path):
    _, directory, _ = run
    done = heft("eval", directory / "adapter", "--output", tmp_path / "records.jsonl")
    assert done.returncode == 0, done.stderr
    accuracy = json.loads((directory / "summary.json").read_text())["stages"][-1]["accuracy"]
    assert f"whereabouts: accuracy {100 * accuracy:.1f} %" in done.stdout
    assert read_records(tmp_path / "records.jsonl") == read_records(directory / "records" / "fine.jsonl")


def test_eval_of_a_base_model_takes_a_task_a_limit_and_settings(tmp_path):
    options = ["--task", "whereabouts", "--limit", "7", "--set", "task.people=4", "--output", tmp_path / "r.jsonl"]
    done = heft("eval", "random:tiny-llama", *options)
    assert done.returncode == 0, done.stderr
    assert "7 examples" in done.stdout
    assert len(read_records(tmp_path / "r.jsonl")) == 7


def test_an_encoding_that_lacks_a_character_ends_no_command_in_an_error(run):
    plan = [*COMMAND, "plan", str(run[0]), "--show", "1", "--no-probe"]
    done = subprocess.run(plan, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u" in done.stdout


def test_generate_answers(run):
    done = heft("generate", run[1] / "adapter", "Anna went to the garden.", "--max-new-tokens", "5")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.strip("\n")) > 0


BAD = [
    (["train", "no.yaml"], "no such file"),
    (["train", "RECIPE"], "already holds a run"),
    (["train", "RECIPE", "--output", "new", "--set", "stages.fine.rnk=4"], "did you mean 'rank'?"),
    (["eval", "random:tiny-llama"], "give one with --task"),
    (["eval", "random:tiny-llama", "--task", "bolq"], "boolq"),
    (["eval", "random:tiny-llama", "--task", "whereabouts", "--split", "test"], "no named splits"),
    (["eval", "nobody/nothing", "--task", "whereabouts"], "cannot be loaded"),
    (["generate", "nowhere", "x"], "expected the directory of a run"),
    (["eval", "random:tiny-llama", "--task", "whereabouts", "--output", "FOLDER"], "is a folder; give the file"),
    (["eval", "random:tiny-llama", "--task", "whereabouts", "--output", "RECIPE/x"], "cannot be made: "),
    (["train", "RECIPE", "--output", "RECIPE/x"], "cannot be made: "),
    (["train", "RECIPE", "--output", "x" * 300], "its name is too long"),
    (["train", "RECIPE", "--output", "x" * 300, "--resume"], "its name is too long"),
    (["generate", "ADAPTER", ""], "the prompt is empty"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_message_on_stderr_and_exit_status_2(run, tmp_path, arguments, message):
    recipe, directory, _ = run
    given = {"RECIPE": recipe, "RECIPE/x": recipe / "x", "ADAPTER": directory / "adapter", "FOLDER": directory}
    arguments = [given.get(word, word) for word in arguments]
    if arguments[:2] == ["train", recipe] and "--output" not in arguments:
        arguments += ["--output", directory]
    done = heft(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "" or "Usage" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_needs_neither_torch_nor_transformers_and_is_quick():
    code = (
        "import sys; from heft.cli import main\n"
        "try: main()\nfinally: assert not {'torch', 'transformers', 'peft', 'pydantic'} & set(sys.modules)"
    )
    best = min(cpu_seconds([sys.executable, "-c", code, "--help"]) for _ in range(3))
    assert best < 0.9  # 0.25 on a quiet machine; other tests run beside this one


def test_the_debug_recipe_runs_both_stages_in_under_30_seconds(tmp_path):
    code = "from heft.cli import main; main()"
    recipe = ROOT / "src" / "heft" / "recipes" / "debug.yaml"
    command = [sys.executable, "-c", code, "train", str(recipe), "--output", str(tmp_path / "run")]
    assert cpu_seconds(command) < 30  # on one core; other work on the machine is not counted
    assert (tmp_path / "run" / "adapter" / "heft.json").is_file()


def cpu_seconds(command):
    """Processor time of a command, which must succeed."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = os.times()
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)


def test_python_m_heft_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "heft", "train", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "RECIPE" in done.stdout
