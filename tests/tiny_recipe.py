"""The recipe of nearly every test: a tiny random model in float32 and a few made-up stories."""

import os
from pathlib import Path

DEVICE = os.environ.get("HEFT_TEST_DEVICE", "cpu")
"""Where recipes of tests compute. Tests that compare with weights on a CPU ask for one that is there."""

TASK = "{name: whereabouts, people: 2, moves: 2, train_size: 24, eval_size: 10}"


def recipe_text(
    stages: str, rest: str = "", *, task: str = TASK, dtype: str = "float32", base: str = "random:tiny-llama"
) -> str:
    """A recipe in YAML; `stages`, `task` and `rest` (further keys, one a line) are YAML too."""
    model = f"{{name: '{base}', device: {DEVICE}, dtype: {dtype}}}"
    return f"name: t\nmodel: {model}\ntask: {task}\n{rest}\nstages: {stages}\n"


def write_recipe(folder: Path, stages: str, rest: str = "", *, file: str = "recipe.yaml", **options: str) -> Path:
    """Write `recipe_text` to a file and return its path."""
    path = folder / file
    path.write_text(recipe_text(stages, rest, **options))
    return path
