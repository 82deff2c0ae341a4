"""Shell completion, through the protocol that bash speaks with the command."""

import subprocess

import pytest

from commands import COMMAND, ENVIRONMENT, heft
from heft.tasks import TASKS
from tiny_recipe import write_recipe


def completed(line: str, cwd=None) -> list[str]:
    """What bash offers at the end of a line."""
    words = line.split(" ")
    asked = {"_HEFT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(COMMAND, env=ENVIRONMENT | asked, capture_output=True, text=True, cwd=cwd)
    assert done.stderr == ""
    return done.stdout.split()


def test_recipes_are_completed_by_name():
    assert completed("heft train qu") == ["quickstart"]
    assert {"boolq", "debug", "sweep"} <= set(completed("heft plan "))
    assert "paper/embedded" not in completed("heft train p")  # a study is for heft compare
    assert completed("heft recipes paper/em") == ["paper/embedded"]


def test_recipes_are_completed_by_path(tmp_path):
    (tmp_path / "recipes").mkdir()
    for name in ("mine.yaml", "more.yml", "rows.csv"):
        (tmp_path / "recipes" / name).touch()
    assert completed("heft train rec", tmp_path) == ["recipes/"]
    assert completed("heft train recipes/m", tmp_path) == ["recipes/mine.yaml", "recipes/more.yml"]
    assert completed(f"heft train {tmp_path}/recipes/mo") == [f"{tmp_path}/recipes/more.yml"]
    assert completed("heft train missing/x", tmp_path) == []
    assert completed("heft train ~nobody-of-that-name/x") == []


def test_a_path_below_the_home_directory_is_completed(tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "HOME", str(tmp_path))
    (tmp_path / "mine.yaml").touch()
    assert completed("heft train ~/m") == ["~/mine.yaml"]


def test_tasks_are_completed():
    assert completed("heft eval base --task ") == list(TASKS)
    assert completed("heft eval base --task arc_c") == ["arc_challenge"]


def test_keys_of_set_are_those_of_the_recipe_on_the_line(tmp_path):
    path = write_recipe(tmp_path, "{first: {method: lora}, second: {method: joint}}")
    assert completed(f"heft train {path} --set stages.first.rank") == [
        "stages.first.rank=",
        "stages.first.rank_pattern=",
    ]
    assert completed(f"heft train {path} --set stages.second.reft.pos") == ["stages.second.reft.positions="]
    assert completed("heft train quickstart --set stages.fine.inter") == ["stages.fine.intervention="]
    assert "task.moves=" in completed(f"heft train {path} --set task.")
    assert "task.passage=" not in completed(f"heft train {path} --set task.")  # of boolq
    assert "task.passage=" in completed("heft eval base --set task.pa")
    assert completed(f"heft train {path} --set seed=") == []


@pytest.mark.parametrize("text", ["stages: 3", "- a", "task: {name: 7}\nstages: {a: 1}", "\x00", "a: &b 1"])
def test_a_recipe_that_cannot_be_read_is_no_reason_for_an_error(tmp_path, text):
    (tmp_path / "odd.yaml").write_text(text)
    assert "model.dtype=" in completed(f"heft train {tmp_path / 'odd.yaml'} --set model.dt")


def test_the_script_for_the_shell_calls_this_command():
    environment = ENVIRONMENT | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    ask = [*COMMAND, "--show-completion", "bash"]
    shown = subprocess.run(ask, env=environment, capture_output=True, text=True)
    assert "_HEFT_COMPLETE=complete_bash $1" in shown.stdout
    assert "--install-completion" in heft("--help").stdout


def test_a_recipe_with_odd_values_still_completes_keys(tmp_path):
    (tmp_path / "odd.yaml").write_text("task: {name: [rows]}\nstages: {a: {method: [lora]}, b: {method: reft}}\n")
    assert "task.eval_limit=" in completed("heft train odd.yaml --set task.eval", tmp_path)
    assert completed("heft train odd.yaml --set stages.b.posi", tmp_path) == ["stages.b.positions="]
    assert completed("heft train odd.yaml --set stages.a.", tmp_path) == []
