"""Searches on the tiny model, in FLOPs, so that they are the same each time."""

from types import SimpleNamespace

import pytest

from heft.recipe.files import load_recipe
from heft.tune import arms, forks, planner, prices, rounds
from heft.tune.ledger import Ledger
from heft.tune.run import tune
from tiny_recipe import write_recipe

TASK = "{name: whereabouts, people: 2, moves: 2, train_size: 40, eval_size: 8}"
STAGES = (
    "{coarse: {method: lora, rank: 2, batch_size: 4, targets: [q_proj, v_proj]},"
    " fine: {method: reft, positions: l2, batch_size: 4}}"
)
SMALL = "holdout: 0.3, rungs: 2, keep: 2, lora: {rank: [2], learning_rate: [1e-2, 3e-2]}"
LEAST_STEPS = 3
"""Of the shortest trial, so that searches take seconds."""
ALL_ARMS = 20e9
"""FLOPs that pay for some trials of every arm."""
TWO_ARMS = 9e9
LACKS = 2
"""Tokens from a prompt's end that the kept prefixes of a bench lack."""


def quick_tune(recipe, budget: str, **options):
    """`heft tune` with short trials, and without the run of the best unless it is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (arms, forks, planner, prices, rounds):
            patch.setattr(module, "LEAST_STEPS", LEAST_STEPS)
        return tune(recipe, budget, **{"runs_best": False, **options})


def searched(folder, wanted: str = "", budget: float = TWO_ARMS, task: str = TASK, name: str = "search", **options):
    """Search a recipe with these arms; the recipe, what was found, and the trials."""
    given = f"arms: [{wanted}], " if wanted else ""
    path = write_recipe(folder, STAGES, f"tune: {{{given}{SMALL}}}", file=f"{name}.yaml", task=task)
    recipe = load_recipe(path, output=folder / name)
    found = quick_tune(recipe, f"{budget:g}flop", **options)
    trials = Ledger.read(folder / name / "trials.jsonl")
    return SimpleNamespace(recipe=recipe, found=found, trials=trials, folder=folder / name)
