"""The command line in a process of its own, as a person uses it."""

import os
import subprocess
import sys

COMMAND = [sys.executable, "-c", "from heft.cli import main; main()"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def heft(*arguments, cwd=None):
    """Run a command to its end."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT)


def write_recipe(folder, stages, sweep="null"):
    """Write a recipe for the tiny random model; `stages` and `sweep` are YAML."""
    path = folder / "recipe.yaml"
    path.write_text(
        "name: t\nmodel: {name: 'random:tiny-llama', dtype: float32}\n"
        "task: {name: whereabouts, train_size: 24, eval_size: 10}\n"
        f"stages: {stages}\nsweep: {sweep}\n"
    )
    return path
