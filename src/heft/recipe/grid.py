"""The configurations of a sweep, each a recipe of its own. Without torch."""

from dataclasses import dataclass
from typing import Any

from heft.errors import HeftError
from heft.recipe.recipe import LoraStage, Recipe, ReftStage
from heft.recipe.sweep import combinations, merged


@dataclass(frozen=True)
class Configuration:
    """One combination.

    Attributes:
        name: c00, c01, … in the order of the grid, the last setting turning fastest.
        values: what the grid gives it.
        stage: the last stage with these values.
    """

    name: str
    values: dict[str, Any]
    stage: LoraStage | ReftStage

    @property
    def adapter(self) -> str:
        """Name of its adapter during the sweep; no stage can be named so."""
        return f"sweep-{self.name}"


def configurations(recipe: Recipe) -> list[Configuration]:
    """Every combination of the recipe's sweep."""
    _, base = last_stage(recipe)
    found = list(combinations(recipe.sweep))
    width = max(2, len(str(len(found) - 1)))
    return [
        Configuration(f"c{number:0{width}}", values, type(base).model_validate(merged(base, recipe.sweep, values)))
        for number, (values, _) in enumerate(found)
    ]


def last_stage(recipe: Recipe) -> tuple[str, LoraStage | ReftStage]:
    """Name and settings of the stage that a sweep varies."""
    return list(recipe.stages.items())[-1]


def recipe_of(recipe: Recipe, configuration: Configuration) -> Recipe:
    """The recipe that trains one configuration alone, as `heft train` does."""
    name, _ = last_stage(recipe)
    changed = {
        "name": f"{recipe.name}-{configuration.name}",
        "stages": recipe.stages | {name: configuration.stage},
        "sweep": None,
        "output": None,
    }
    return recipe.model_copy(update=changed)


def require_sweep(recipe: Recipe) -> None:
    """Raise a HeftError where a recipe has no `sweep`."""
    if recipe.sweep is None:
        example = "sweep: {grid: {rank: [4, 8], learning_rate: [1e-3, 2e-3]}}"
        raise HeftError(f"recipe {recipe.name!r} has no `sweep`; add one, such as {example}, or use heft train")


def refuse_sweep(recipe: Recipe) -> None:
    """Raise a HeftError where a recipe has a `sweep`, so is not one run."""
    if recipe.sweep is not None:
        raise HeftError(
            f"recipe {recipe.name!r} has a `sweep`, many configurations of its last stage: run it with heft sweep, or"
            " take one with heft train and --set sweep=null"
        )
