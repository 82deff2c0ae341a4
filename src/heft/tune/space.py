"""What an arm may try: a stage for each combination of values, in an order in which any first few cover all values."""

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from heft.edits.positions import parse_positions
from heft.edits.settings import ReftSettings
from heft.errors import HeftError
from heft.recipe.defaults import rate_for
from heft.recipe.recipe import KINDS, JointStage, LoraSettings, LoraStage, Recipe, ReftStage, Stage
from heft.recipe.training import TrainingSettings
from heft.recipe.tune import DEFAULTS, RATES, TuneSettings, templates
from heft.settings.words import faults_of, show
from heft.tune.trial import COARSE

OF_ANOTHER = ("orthogonal_to", "orthogonal_side")
"""Settings of a ReFT stage that are about a LoRA stage before it."""
WIDER = 3.0
"""How far beyond the rates that were tried another one is."""
RATES_BEHIND = (0.3, 0.1, 1.0)
"""Rates of a second stage, as multiples of the first in a list: it begins where the loss is low, and high rates undo
that."""
_RATE_FIELDS = {
    "learning_rate": "learning_rate",
    "lora.learning_rate": "learning_rate",
    "reft.learning_rate": "reft_learning_rate",
}
"""Of a stage, by the name that its value has among a candidate's."""
_OF_TRAINING = TrainingSettings.model_fields.keys() - {"learning_rate"}
"""Settings that both adapters of a joint stage have in common."""
_MOST = 2048
"""Combinations that are spread; of more, these many are drawn."""


@dataclass(frozen=True)
class Candidate:
    """A stage that may be tried.

    Attributes:
        values: what it has of the lists, such as {"learning_rate": 1e-3, "rank": 8}; in a joint stage with the method
            before the name of what is an adapter's own, such as {"lora.rank": 8, "batch_size": 16}.
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


def resolved_space(recipe: Recipe, parameters: int, shortest: int) -> Recipe:
    """The recipe with every list of `tune` written out.

    Args:
        parameters: of the base model.
        shortest: tokens of the shortest prompt; positions of the defaults that it has not are left out.

    Raises:
        HeftError: values that `tune` lists are in no combination that is a stage; all of them.
    """
    tune, lists = settings_of(recipe), grids(recipe, parameters)
    for method, template in templates(recipe.stages, KINDS).items():
        if "positions" not in getattr(tune, method):
            own = template.positions if "positions" in template.model_fields_set else None
            fit = [each for each in lists[method]["positions"] if each == own or _reach(each) <= shortest]
            lists[method]["positions"] = fit or ["all"]
    found = recipe.model_copy(update={"tune": tune.model_copy(update=lists)})
    _require_all_are_tried(tune, found, parameters)
    return found


def _require_all_are_tried(given: TuneSettings, recipe: Recipe, parameters: int) -> None:
    """Raise a HeftError where values that a person lists would never be tried, with each of them and the reason."""
    faults, methods = [], {part for arm in given.arms for part in arm.split("+")}
    for method, kind in KINDS.items():
        tried = _combinations(recipe, method, parameters) if methods & {method, "joint"} else []
        for key, value in ((key, value) for key, values in getattr(given, method).items() for value in values):
            stages = [stage for values, stage in tried if values.get(key) == value]
            if stages and all(isinstance(stage, ValidationError) for stage in stages):
                why = next(iter(faults_of(stages[0], kind).values()))
                faults.append(f"tune.{method}.{key}: {show(value)} goes with no value of another list: {why}")
    if faults:
        raise HeftError("\n".join(faults))


def _reach(positions: str) -> int:
    return parse_positions(positions).shortest_prompt()


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


def candidates(
    recipe: Recipe, method: str, parameters: int, second: bool = False, of_any_rate: Collection[str] = ()
) -> list[Candidate]:
    """Stages of a method ("lora", "reft" or "joint") to try, the likeliest first.

    Combinations that are no stage, such as DoRA with positions, are left out.

    Args:
        recipe: with templates and lists.
        method: one that an arm has.
        parameters: of the base model.
        second: whether they stand behind a coarse stage, which `orthogonal_to` may keep out of.
        of_any_rate: see `methods_of_any_rate`; behind a coarse stage the rates of these are lower.
    """
    tried = _combinations(recipe, method, parameters, second, of_any_rate)
    return [Candidate(values, stage) for values, stage in tried if not isinstance(stage, ValidationError)]


def _combinations(
    recipe: Recipe, method: str, parameters: int, second: bool = False, of_any_rate: Collection[str] = ()
) -> list[tuple[dict[str, Any], Stage | ValidationError]]:
    """Values, each with their stage, or with why they are none; arguments as for `candidates`."""
    base, lists = templates(recipe.stages, KINDS), grids(recipe, parameters)
    if second and method in of_any_rate:
        likeliest, *_ = lists[method]["learning_rate"]
        rates = [float(f"{factor * likeliest:.2g}") for factor in RATES_BEHIND]
        lists[method] = {**lists[method], "learning_rate": rates}
    if method != "reft" or not second:
        base["reft"], lists["reft"] = _without_another(base["reft"], lists["reft"])
    else:
        base["reft"], lists["reft"] = _behind_coarse(base["reft"], lists["reft"])
    if method != "joint":
        return [(each, _or_why_not(_with, base[method], each)) for each in spread(lists[method], recipe.seed)]
    both = base["lora"], base["reft"]
    return [(each, _or_why_not(_joint, *both, each)) for each in spread(_of_both(lists), recipe.seed)]


def methods_of_any_rate(recipe: Recipe) -> frozenset[str]:
    """Those for which `tune` gives no learning rates, so that the search may go beyond those of the defaults."""
    tune = settings_of(recipe)
    return frozenset(method for method in KINDS if "learning_rate" not in getattr(tune, method))


def with_rates_beyond(best: Candidate, tried: Sequence[Candidate], methods: Collection[str]) -> list[Candidate]:
    """The best of those that were tried with a learning rate beyond theirs, where it has the lowest or the highest.

    A joint stage has two rates, and a candidate for each. `methods` are those whose rates may be others than given.
    """
    found = []
    for key in [each for each in _RATE_FIELDS if each in best.values]:
        method = key.partition(".")[0] if "." in key else best.stage.method
        rates, own = {each.values[key] for each in tried}, best.values[key]
        if method not in methods or len(rates) < 2 or min(rates) < own < max(rates):
            continue
        rate = float(f"{own * WIDER if own == max(rates) else own / WIDER:.2g}")
        stage = best.stage.model_copy(update={_RATE_FIELDS[key]: rate})
        found.append(Candidate({**best.values, key: rate}, stage))
    return found


def _without_another(
    template: TrainingSettings, lists: Mapping[str, list[Any]]
) -> tuple[TrainingSettings, dict[str, list[Any]]]:
    """A ReFT template and its lists without what is about a stage before it."""
    given = {key: value for key, value in template.model_dump(exclude_unset=True).items() if key not in OF_ANOTHER}
    return type(template).model_validate(given), {key: each for key, each in lists.items() if key not in OF_ANOTHER}


def _behind_coarse(
    template: TrainingSettings, lists: Mapping[str, list[Any]]
) -> tuple[TrainingSettings, dict[str, list[Any]]]:
    """A ReFT template and its lists with the name that the stage before it has in trials."""
    if template.orthogonal_to is not None:
        template = template.model_copy(update={"orthogonal_to": COARSE})
    named = [value if value is None else COARSE for value in lists.get("orthogonal_to", ())]
    return template, {**lists, **({"orthogonal_to": list(dict.fromkeys(named))} if named else {})}


def spread(grid: Mapping[str, Sequence[Any]], seed: int) -> list[dict[str, Any]]:
    """All combinations: the one of first values, then always one whose values were seen least (ties by lot)."""
    sizes = [len(values) for values in grid.values()]
    total, lots = math.prod(sizes), random.Random(seed)
    rest = list(range(1, total)) if total <= _MOST else lots.sample(range(1, total), _MOST - 1)
    lots.shuffle(rest)
    combinations = np.stack(np.unravel_index([0, *rest], sizes), axis=1)
    seen = [np.zeros(size) for size in sizes]
    open_ones, chosen, order = np.ones(len(combinations), bool), 0, []
    for _ in combinations:
        order.append(combinations[chosen])
        open_ones[chosen] = False
        for counts, number in zip(seen, combinations[chosen], strict=True):
            counts[number] += 1
        often = sum(counts[combinations[:, place]] for place, counts in enumerate(seen))
        chosen = int(np.where(open_ones, often, np.inf).argmin())
    return [{key: values[n] for (key, values), n in zip(grid.items(), numbers, strict=True)} for numbers in order]


def _or_why_not(make: Callable[..., Stage], *about: Any) -> Stage | ValidationError:
    try:
        return make(*about)
    except ValidationError as error:
        return error


def _with(template: TrainingSettings, values: Mapping[str, Any]) -> Stage:
    return type(template).model_validate({**template.model_dump(exclude_unset=True), **values})


def _of_both(lists: Mapping[str, Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    """The lists of a joint stage: those of each adapter, and LoRA's of training."""
    own = {f"{each}.{key}": lists[each][key] for each in KINDS for key in lists[each] if key not in _OF_TRAINING}
    return own | {key: values for key, values in lists["lora"].items() if key in _OF_TRAINING}


def _joint(lora: LoraStage, reft: ReftStage, values: Mapping[str, Any]) -> JointStage:
    """Both adapters with their values, trained as the LoRA template says."""
    own: dict[str, dict[str, Any]] = {}
    for method, template, kind in (("lora", lora, LoraSettings), ("reft", reft, ReftSettings)):
        given = template.model_dump(exclude_unset=True)
        given |= {k.partition(".")[2]: v for k, v in values.items() if k.startswith(f"{method}.")}
        own[method] = {key: value for key, value in given.items() if key in kind.model_fields}
    given = lora.model_dump(exclude_unset=True) | values
    training = {key: value for key, value in given.items() if key in _OF_TRAINING}
    rates = {"learning_rate": values["lora.learning_rate"], "reft_learning_rate": values["reft.learning_rate"]}
    return JointStage.model_validate({"method": "joint", **training, **rates, **own})
