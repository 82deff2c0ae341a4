"""The combinations of a sweep: each checked as a stage of its own, all faults at once. Without torch."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from heft.errors import HeftError
from heft.recipe.sweep import SweepSettings
from heft.settings.base import suggest
from heft.settings.words import explain, schema_of, show

if TYPE_CHECKING:
    from heft.recipe.recipe import Recipe, ReftStage, Stage

HOLDOUT = 0.1
"""Share of rows held back where neither the sweep nor its stage says."""

FIXED = {
    "method": "a sweep trains `reft` adapters only",
    "holdout": "all configurations are ranked on the same rows; set sweep.holdout",
    "bf16": "configurations share a forward pass, so they compute in one number format; set it in the stage",
    "fused": "configurations share a forward pass, so it is the same for all; set it in the stage",
    "gradient_checkpointing": "a sweep keeps its activations; lower sweep.tokens_per_pass for less memory",
    "micro_batch_size": "it changes no result; set it in the stage",
    "reuse": "it changes no result; set it in the stage",
    "cache": "configurations share one store of prefixes; set it in the stage",
}
"""Settings that cannot differ between configurations, and why."""

_Path = tuple[str | int, ...]
_EXAMPLE = "sweep: {grid: {rank: [4, 8], learning_rate: [1e-3, 2e-3]}}"


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
    stage: "ReftStage"

    @property
    def adapter(self) -> str:
        """Name of its adapter during the sweep; no stage can be named so."""
        return f"sweep-{self.name}"


def configurations(recipe: "Recipe") -> list[Configuration]:
    """Every combination of the recipe's sweep."""
    _, base = last_stage(recipe)
    found = list(_combinations(recipe.sweep))
    width = max(2, len(str(len(found) - 1)))
    return [
        Configuration(f"c{number:0{width}}", values, type(base).model_validate(_merged(base, recipe.sweep, values)))
        for number, (values, _) in enumerate(found)
    ]


def last_stage(recipe: "Recipe") -> "tuple[str, ReftStage]":
    """Name and settings of the stage that a sweep varies."""
    return list(recipe.stages.items())[-1]


def recipe_of(recipe: "Recipe", configuration: Configuration) -> "Recipe":
    """The recipe that trains one configuration alone, as `heft train` does."""
    name, _ = last_stage(recipe)
    changed = {
        "name": f"{recipe.name}-{configuration.name}",
        "stages": recipe.stages | {name: configuration.stage},
        "sweep": None,
        "output": None,
    }
    return recipe.model_copy(update=changed)


def require_sweep(recipe: "Recipe") -> None:
    """See that there is something to sweep.

    Raises:
        HeftError: the recipe has no `sweep`.
    """
    if recipe.sweep is None:
        raise HeftError(f"recipe {recipe.name!r} has no `sweep`; add one, such as {_EXAMPLE}, or use heft train")


def refuse_sweep(recipe: "Recipe") -> None:
    """See that a recipe is one run.

    Raises:
        HeftError: the recipe has a `sweep`.
    """
    if recipe.sweep is not None:
        raise HeftError(
            f"recipe {recipe.name!r} has a `sweep`, many configurations of its last stage: run it with heft sweep, or"
            " take one with heft train and --set sweep=null"
        )


def check_sweep(sweep: SweepSettings, stages: "dict[str, Stage]") -> SweepSettings:
    """Check every combination as a stage.

    Raises:
        pydantic.ValidationError: all that is wrong, each at its key or value.
    """
    name, base = list(stages.items())[-1]
    faults = _faults(sweep, name, base)
    if faults:
        raise ValidationError.from_exception_data("sweep", list(faults.values()))
    return sweep


def _faults(sweep: SweepSettings, name: str, base: "Stage") -> dict[_Path, InitErrorDetails]:
    if base.method != "reft":
        text = (
            f"varies the last stage, which must be a reft stage; the last one here, {name!r}, is a {base.method} stage"
        )
        return {(): _fault((), text)}
    faults: dict[_Path, InitErrorDetails] = {}
    known = {key: values for key, values in sweep.grid.items() if key in type(base).model_fields and key not in FIXED}
    for path, text in (
        *_faults_of_keys(sweep, base),
        *_faults_of_stage(sweep, name, base),
        *_faults_of_combinations(sweep.model_copy(update={"grid": known}), name, base),
    ):
        faults.setdefault(path, _fault(path, text))
    return faults


def _fault(path: _Path, text: str) -> InitErrorDetails:
    return InitErrorDetails(type=PydanticCustomError("value_error", "{text}", {"text": text}), loc=path, input=None)


def _faults_of_keys(sweep: SweepSettings, base: "ReftStage") -> Iterator[tuple[_Path, str]]:
    known = [key for key in type(base).model_fields if key not in FIXED]
    for key, values in sweep.grid.items():
        if key in FIXED:
            yield ("grid", key), f"cannot differ between configurations: {FIXED[key]}"
        elif key not in known:
            yield ("grid", key), f"unknown key{suggest(key, known)}"
        for number, value in enumerate(values):
            if any(value == other and type(value) is type(other) for other in values[:number]):
                yield ("grid", key, number), f"{show(value)} is given twice"


def _faults_of_stage(sweep: SweepSettings, name: str, base: "ReftStage") -> Iterator[tuple[_Path, str]]:
    if base.gradient_checkpointing:
        yield (), f"stages.{name}.gradient_checkpointing is true, but {FIXED['gradient_checkpointing']}"
    if sweep.holdout is not None and base.holdout not in (0.0, sweep.holdout):
        yield ("holdout",), f"{sweep.holdout} here, but stages.{name}.holdout is {base.holdout}; give one of them"


def _faults_of_combinations(sweep: SweepSettings, name: str, base: "ReftStage") -> Iterator[tuple[_Path, str]]:
    """What is wrong with a value is told at the value; what is wrong with a combination, at the value it names."""
    for values, numbers in _combinations(sweep):
        try:
            type(base).model_validate(_merged(base, sweep, values), strict=True)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                if details["type"] != "default_factory_not_called":
                    key = details["loc"][0]
                    path = ("grid", key, numbers[key]) if key in numbers else ("grid",)
                    yield path, _words(details, name, key in numbers)


def _words(details: ErrorDetails, name: str, is_swept: bool) -> str:
    from heft.recipe.recipe import Recipe

    path, text = explain(details | {"loc": ("stages", name, "reft", *details["loc"])}, schema_of(Recipe))
    return text if is_swept else f"{'.'.join(map(str, path))}: {text}"


def _combinations(sweep: SweepSettings) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    """Each combination, and the number of each value in its list."""
    for numbered in itertools.product(*(enumerate(values) for values in sweep.grid.values())):
        yield (
            {key: value for key, (_, value) in zip(sweep.grid, numbered, strict=True)},
            {key: number for key, (number, _) in zip(sweep.grid, numbered, strict=True)},
        )


def _merged(base: "ReftStage", sweep: SweepSettings, values: dict[str, Any]) -> dict[str, Any]:
    """A stage as a person would write it; defaults are left out, since some follow from other settings."""
    holdout = sweep.holdout or base.holdout or HOLDOUT
    return {**base.model_dump(exclude_unset=True), "holdout": holdout, **values}
