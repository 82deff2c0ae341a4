"""The recipes that come with heft: found by name, listed with what was measured, and in the built wheel."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from commands import heft
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.recipe.ready import FOLDER, located, measurements, ready_recipe, ready_recipes
from heft.study.files import load_study

ROOT = Path(__file__).parents[2]


def test_every_file_of_the_folder_is_listed_with_the_command_that_takes_it():
    found = {each.name: each for each in ready_recipes()}
    assert {each.path for each in found.values()} == set(FOLDER.rglob("*.yaml"))
    for each in found.values():
        if each.command == "compare":
            assert load_study(each.path).recipes
        else:
            assert (load_recipe(each.path).sweep is not None) == (each.command == "sweep")
        assert each.purpose
        assert "#" not in each.purpose


def test_a_ready_recipe_is_read_by_name_and_by_path_alike():
    assert load_recipe("quickstart") == load_recipe(FOLDER / "quickstart.yaml")
    assert load_study("paper/embedded").recipes == load_study(FOLDER / "paper" / "embedded.yaml").recipes


def test_a_file_of_that_name_comes_before_the_ready_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located("debug") == FOLDER / "debug.yaml"
    Path("debug").mkdir()  # a folder is no recipe
    assert located("debug") == FOLDER / "debug.yaml"
    Path("debug").rmdir()
    shutil.copy(FOLDER / "lora.yaml", "debug")
    assert load_recipe("debug").name == "lora"


@pytest.mark.parametrize("given", ["../recipes/debug", "/debug", "nothing", "debug.yaml", ""])
def test_what_is_no_name_stays_the_path_that_it_is(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert located(given) == Path(given)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(HeftError, match="no recipe 'quickstar' comes with heft; did you mean quickstart"):
        ready_recipe("quickstar")
    with pytest.raises(HeftError, match="no such file; expected a recipe, such as quickstart"):
        load_recipe("quickstar")


def test_every_measurement_is_of_a_ready_recipe_and_says_where_it_was_made():
    names = {each.name for each in ready_recipes()}
    assert measurements().keys() <= names
    for measured in measurements().values():
        assert "core" in measured.where or "GPU" in measured.where
        assert measured.minutes is not None or measured.score is not None
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    for measured in measurements().values():
        assert measured.score is None or measured.score.partition("(")[2].partition(")")[0] in log


def test_heft_recipes_lists_prints_and_copies(tmp_path):
    listed = heft("recipes").stdout
    assert "heft train quickstart   [1.4 min, 97.7 %" in listed
    assert "heft train boolq   [time and score: unmeasured]" in listed
    assert "heft compare paper/embedded" in listed
    assert heft("recipes", "debug").stdout == (FOLDER / "debug.yaml").read_text(encoding="utf-8")
    copy = tmp_path / "new" / "mine.yaml"
    done = heft("recipes", "debug", "--output", copy)
    assert done.returncode == 0
    assert f"heft train {copy}" in done.stdout
    assert load_recipe(copy) == load_recipe("debug")
    again = heft("recipes", "debug", "--output", copy)
    assert again.returncode == 2
    assert "exists; give another file" in again.stderr
    study = heft("recipes", "paper/embedded", "--output", tmp_path / "study.yaml")
    assert study.returncode == 2
    assert "copy the folder" in study.stderr
    values = {each["name"]: each for each in json.loads(heft("recipes", "--json").stdout)["recipes"]}
    assert values["quickstart"]["measured"]["minutes"] == 1.4
    assert values["boolq"]["measured"] is None


def test_the_built_wheel_has_every_recipe_and_runs_one_where_it_is_installed(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, tmp_path], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        inside = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
    for path in [*FOLDER.rglob("*.yaml"), FOLDER / "measured.json", FOLDER.parent / "py.typed"]:
        assert f"heft/{path.relative_to(FOLDER.parent).as_posix()}" in inside
    code = "import heft; from heft.recipe.ready import *; print(heft.__file__, heft.load_recipe('quickstart').name)"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert answer.stdout.split() == [str(tmp_path / "site" / "heft" / "__init__.py"), "quickstart"], answer.stderr
