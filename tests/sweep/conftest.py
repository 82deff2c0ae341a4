"""A sweep on the tiny model, behind a LoRA stage."""

import pytest

from heft.recipe.files import load_recipe
from heft.sweep import run as sweep_run
from heft.sweep.results import rank

COARSE = "coarse: {method: lora, rank: 2, steps: 2, batch_size: 4, learning_rate: 1e-2}"
TASK = "{name: whereabouts, people: 2, moves: 2, train_size: 24, eval_size: 4}"


@pytest.fixture
def run(recipe_file, tmp_path, monkeypatch):
    """Runs a sweep; returns its recipe, what it found, and its learners."""
    seen = []
    monkeypatch.setattr(
        sweep_run, "rank", lambda training, normalize: seen.append(training) or rank(training, normalize)
    )

    def run_sweep(fine: str, sweep: str, name="sweep", to=None, coarse=COARSE):
        path = recipe_file(f"{{{coarse}, fine: {fine}}}", f"sweep: {sweep}", task=TASK)
        recipe = load_recipe(path, output=str(tmp_path / name))
        return recipe, sweep_run.sweep(recipe, to), seen[-1].learners

    return run_sweep
