"""The recipes of the cells that benchmarks/two_stages.py and its neighbours study."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from heft.recipe.recipe import Recipe


@pytest.fixture
def cells(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    yield importlib.import_module("two_stages")
    del sys.modules["two_stages"]


def test_every_cell_is_a_recipe_of_the_three_options_that_all_scripts_have(cells, tmp_path):
    options = Namespace(data=tmp_path, tasks=tmp_path, eval_rows=400)
    for data in cells.SETS:
        for rows in cells.BATCH_SIZES:
            recipe = Recipe.model_validate(cells.recipe_of(f"{data}-{rows}", options))
            assert (recipe.task.train_limit, recipe.task.eval_limit) == (rows, 400)
            assert all(stage.batch_size == cells.BATCH_SIZES[rows][0] for stage in recipe.stages.values())


def test_a_cell_may_have_another_model(cells, tmp_path):
    options = Namespace(data=tmp_path, tasks=tmp_path, eval_rows=400)
    recipe = Recipe.model_validate(cells.recipe_of("sst2-100", options, tmp_path / "model"))
    assert recipe.model.name == str((tmp_path / "model").resolve())
