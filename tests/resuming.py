"""A short run of two stages for the tests of resuming: begun, interrupted in some way, resumed, compared."""

import json
from pathlib import Path

import heft
from heft.recipe.files import load_recipe
from tiny_recipe import recipe_text

START = recipe_text("", "checkpoint: {every_steps: 1}")
RECIPE = (
    START
    + """
  coarse: {method: lora, rank: 2, dropout: 0.1, epochs: 2, batch_size: 5, holdout: 0.1, evaluate_every: 3,
           best_checkpoint: true, learning_rate: 1e-2}
  fine: {method: reft, rank: 2, dropout: 0.1, positions: l3, epochs: 3, batch_size: 8, micro_batch_size: 4}
"""
)


def write(folder: Path, recipe: str = RECIPE) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(recipe)
    return path


def run(recipe: Path, output: Path, *settings: str) -> None:
    heft.train(load_recipe(recipe, settings, output=str(output)), resume=True)


def results(directory: Path) -> dict[str, object]:
    """All that must be the same whether or not a run was ended on the way: bytes, and figures but for time and room."""
    files = [*directory.glob("records/*"), *directory.glob("adapter/**/*"), directory / "metrics.jsonl"]
    found: dict[str, object] = {str(file.relative_to(directory)): file.read_bytes() for file in files if file.is_file()}
    stages = json.loads((directory / "summary.json").read_text())["stages"]
    timed = ("seconds", "evaluation_seconds", "peak_bytes")
    found["summary"] = [{key: value for key, value in stage.items() if key not in timed} for stage in stages]
    found["files"] = sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.name != ".lock")
    return found
