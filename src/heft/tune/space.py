"""What an arm may try: a stage for each combination of values, in an order in which any first few cover all values."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heft.edits.settings import ReftSettings
from heft.errors import HeftError
from heft.recipe.defaults import rate_for
from heft.recipe.recipe import KINDS, JointStage, LoraSettings, LoraStage, Recipe, ReftStage, Stage
from heft.recipe.training import TrainingSettings
from heft.recipe.tune import DEFAULTS, RATES, TuneSettings, templates

_MOST = 4096
"""Combinations that are spread; of more, these many are drawn."""


@dataclass(frozen=True)
class Candidate:
    """A stage that may be tried.

    Attributes:
        values: what it has of the lists, such as {"learning_rate": 1e-3, "rank": 8}; in a joint stage with the method
            before the name, such as {"lora.rank": 8}.
        stage: with these values; how long it trains is left open.
    """

    values: dict[str, Any]
    stage: Stage


def require_tunable(recipe: Recipe) -> None:
    """Raise a HeftError, with all that is wrong, where a recipe cannot be searched."""
    faults = []
    if recipe.sweep is not None:
        faults.append(f"recipe {recipe.name!r} has a `sweep`; run it with heft sweep, or add --set sweep=null")
    for name, stage in recipe.stages.items():
        if stage.source is not None:
            faults.append(f"stages.{name} starts from {stage.source}, but a search begins with new adapters; remove it")
        lora = stage.lora if stage.method == "joint" else stage
        if getattr(lora, "trainable_tokens", None):
            faults.append(f"stages.{name}.trainable_tokens: embeddings are not searched; remove it, or use heft train")
    if faults:
        raise HeftError("\n".join(faults))


def settings_of(recipe: Recipe) -> TuneSettings:
    """The recipe's `tune`, or the defaults."""
    return recipe.tune or TuneSettings()


def grids(recipe: Recipe, parameters: int) -> dict[str, dict[str, list[Any]]]:
    """The lists of values by method, for a base model of so many parameters."""
    tune, base = settings_of(recipe), templates(recipe.stages, KINDS)
    return {method: _grid(method, template, getattr(tune, method), parameters) for method, template in base.items()}


def _grid(
    method: str, template: TrainingSettings, given: Mapping[str, list[Any]], parameters: int
) -> dict[str, list[Any]]:
    """Values given, else the template's own before the defaults."""
    auto = template.learning_rate == "auto"
    rate = rate_for(method, parameters) if auto else template.learning_rate
    found: dict[str, list[Any]] = {"learning_rate": [float(f"{rate * factor:.2g}") for factor in RATES]}
    for key, values in DEFAULTS[method].items():
        own = [getattr(template, key)] if key in template.model_fields_set else []
        found[key] = [*own, *(value for value in values if value not in own)]
    return found | {key: list(values) for key, values in given.items()}


def candidates(recipe: Recipe, method: str, parameters: int) -> list[Candidate]:
    """Stages of a method ("lora", "reft" or "joint") to try, the likeliest first.

    Raises:
        HeftError: a combination is no stage.
    """
    base, lists = templates(recipe.stages, KINDS), grids(recipe, parameters)
    if method != "joint":
        tried = spread(lists[method], recipe.seed)
        return [Candidate(values, _with(base[method], values)) for values in tried]
    both = {f"{each}.{key}": values for each in KINDS for key, values in lists[each].items()}
    return [Candidate(values, _joint(base["lora"], base["reft"], values)) for values in spread(both, recipe.seed)]


def spread(grid: Mapping[str, Sequence[Any]], seed: int) -> list[dict[str, Any]]:
    """All combinations: the one of first values, then always one whose values were seen least (ties by lot)."""
    numbered = list(itertools.islice(itertools.product(*(range(len(values)) for values in grid.values())), _MOST))
    first, rest = numbered[0], numbered[1:]
    random.Random(seed).shuffle(rest)
    seen = {(place, number): 0 for place, values in enumerate(grid.values()) for number in range(len(values))}
    order: list[tuple[int, ...]] = []
    while True:
        order.append(first)
        for each in enumerate(first):
            seen[each] += 1
        if not rest:
            break
        first = min(rest, key=lambda numbers: sum(seen[each] for each in enumerate(numbers)))
        rest.remove(first)
    return [{key: values[n] for (key, values), n in zip(grid.items(), numbers, strict=True)} for numbers in order]


def _with(template: TrainingSettings, values: Mapping[str, Any]) -> Stage:
    return type(template).model_validate({**template.model_dump(exclude_unset=True), **values})


def _joint(lora: LoraStage, reft: ReftStage, values: Mapping[str, Any]) -> JointStage:
    """Both adapters with their values, trained as the LoRA template says."""
    own: dict[str, dict[str, Any]] = {}
    for method, template, kind in (("lora", lora, LoraSettings), ("reft", reft, ReftSettings)):
        given = template.model_dump(exclude_unset=True)
        given |= {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{method}.")}
        own[method] = {key: value for key, value in given.items() if key in kind.model_fields}
    training = {
        key: value
        for key, value in lora.model_dump(exclude_unset=True).items()
        if key in TrainingSettings.model_fields and key != "learning_rate"
    }
    rates = {"learning_rate": values["lora.learning_rate"], "reft_learning_rate": values["reft.learning_rate"]}
    return JointStage.model_validate({"method": "joint", **training, **rates, **own})
