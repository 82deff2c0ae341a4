"""Adapter directories made by `heft.train`, with learning rates at which a few steps clearly change the model."""

import pytest
from verify_recipes import RECIPES, TASK

import heft
from heft.verify.subject import open_subject
from tiny_recipe import write_recipe


@pytest.fixture(scope="session")
def adapters(tmp_path_factory):
    """The adapter directory of a recipe of `RECIPES`, trained when it is first asked for."""
    made = {}

    def make(name):
        if name not in made:
            stages, dtype = RECIPES[name]
            folder = tmp_path_factory.mktemp("verify")
            path = write_recipe(folder, stages, f"output: {folder / 'run'}", task=TASK, dtype=dtype)
            made[name] = heft.train(path).directory / "adapter"
        return made[name]

    return make


@pytest.fixture
def subject(adapters):
    """LoRA, then ReFT on the last four prompt tokens, freshly loaded: a test may break it."""
    return open_subject(adapters("last"), rows=3)
