"""The settings of a sweep. The values in its `grid` are checked as settings of the stage they belong to."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_core import InitErrorDetails

from heft.recipe.orthogonal import faults_of_grid
from heft.recipe.training import TrainingSettings
from heft.settings.base import Settings, value_error
from heft.settings.words import KeyPath, dotted, explain, schema_of, show
from heft.text.listing import suggest

HOLDOUT = 0.1
"""Fraction of validation rows where neither the sweep nor its stage gives one."""

FIXED = {
    "method": "all configurations are of the method of their stage; sweep another stage apart",
    "from": "configurations begin with new adapters",
    "holdout": "all configurations are ranked on the same rows; set sweep.holdout",
    "bf16": "configurations share a forward pass, so they compute in one number format; set it in the stage",
    "fused": "configurations share a forward pass, so it is the same for all; set it in the stage",
    "gradient_checkpointing": "a sweep stores its activations; lower sweep.tokens_per_pass for less memory",
    "micro_batch_size": "it changes no result; set it in the stage",
    "reuse": "it changes no result; set it in the stage",
    "cache": "configurations share one store of prefixes; set it in the stage",
}
"""Settings that cannot differ between configurations, and why."""

_METHODS = ("lora", "reft")
"""Whose adapters can stand side by side."""
MOST_CONFIGURATIONS = 10_000
"""Of a sweep: each is checked as a stage, and trained."""


def why_not_swept(stage: TrainingSettings) -> dict[str, str]:
    """What of a stage cannot stand side by side with others on one model: its settings, each with the reason in words;
    none where it can."""
    if stage.method not in _METHODS:
        return {"method": f"{stage.method} trains two adapters together, and a sweep one in each configuration"}
    if stage.method == "reft":
        return {}
    faults = {}
    if stage.init.startswith(("pissa", "olora")):
        faults["init"] = f"{stage.init} changes base weights, which all configurations share"
    if stage.dora:
        faults["dora"] = "dora scales base weights, which all configurations share"
    if stage.trainable_tokens:
        faults["trainable_tokens"] = "embeddings of tokens are weights that all configurations share"
    return faults


class SweepSettings(Settings):
    """Values to try for settings of the last stage, which must be a `lora` or `reft` stage. `heft sweep` trains every
    combination side by side and ranks them on validation rows."""

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    """Settings of the last stage, each with the list of its values, such as {rank: [4, 8], positions: [l4, l8]}; every
    combination is trained."""
    holdout: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Fraction of the training set used as the validation set that ranks the configurations; null means the stage's
    holdout, or 0.1 where that is 0."""
    tokens_per_pass: int = Field(default=4096, ge=1)
    """Most tokens of all configurations together in one forward pass; fewer need less memory. One configuration's
    (micro-)batch is split only where memory runs out."""
    evaluate_winner: bool = False
    """Evaluate the winner, and it alone, on the task's evaluation split at the end."""


def check_sweep(sweep: SweepSettings, stages: Mapping[str, TrainingSettings]) -> SweepSettings:
    """Check every combination as a stage.

    Raises:
        pydantic.ValidationError: all that is wrong, each at its key or value.
    """
    name, base = list(stages.items())[-1]
    faults: dict[KeyPath, str] = {}
    for path, text in _faults(sweep, name, base):
        faults.setdefault(path, text)
    for number, text in faults_of_grid(name, stages, sweep.grid.get("orthogonal_to", [])).items():
        faults.setdefault(("grid", "orthogonal_to", number), text)
    if faults:
        details = [InitErrorDetails(type=value_error(text), loc=path, input=None) for path, text in faults.items()]
        raise ValidationError.from_exception_data("sweep", details)
    return sweep


def _faults(sweep: SweepSettings, name: str, base: TrainingSettings) -> Iterator[tuple[KeyPath, str]]:
    if base.method not in _METHODS:
        last = f"the last one here, {name!r}, is a {base.method} stage"
        yield (), f"varies the last stage, which must be a lora or reft stage; {last}"
        return
    yield from _faults_of_keys(sweep, base)
    yield from _faults_of_stage(sweep, name, base)
    known = {key: values for key, values in sweep.grid.items() if key in type(base).model_fields and key not in FIXED}
    count = math.prod(map(len, known.values()))
    if count > MOST_CONFIGURATIONS:
        yield ("grid",), f"has {count:,} configurations, more than {MOST_CONFIGURATIONS:,}; give fewer values"
    if base.source is not None or count > MOST_CONFIGURATIONS:
        return
    yield from _faults_of_combinations(sweep.model_copy(update={"grid": known}), name, base)


def _faults_of_keys(sweep: SweepSettings, base: TrainingSettings) -> Iterator[tuple[KeyPath, str]]:
    known = [field.alias or key for key, field in type(base).model_fields.items()]
    known = [key for key in known if key not in FIXED]
    for key, values in sweep.grid.items():
        if key in FIXED:
            yield ("grid", key), f"cannot differ between configurations: {FIXED[key]}"
        elif key not in known:
            yield ("grid", key), f"unknown key{suggest(key, known)}"
        for number, value in enumerate(values):
            if any(value == other and type(value) is type(other) for other in values[:number]):
                yield ("grid", key, number), f"{show(value)} is repeated"


def _faults_of_stage(sweep: SweepSettings, name: str, base: TrainingSettings) -> Iterator[tuple[KeyPath, str]]:
    if base.source is not None:
        yield (
            (),
            f"varies stage {name!r}, which starts from {base.source}, but {FIXED['from']}; sweep a stage behind it",
        )
    if base.gradient_checkpointing:
        yield (), f"stages.{name}.gradient_checkpointing is true, but {FIXED['gradient_checkpointing']}"
    if sweep.holdout is not None and base.holdout not in (0.0, sweep.holdout):
        yield ("holdout",), f"{sweep.holdout} here, but stages.{name}.holdout is {base.holdout}; give one of them"


def _faults_of_combinations(sweep: SweepSettings, name: str, base: TrainingSettings) -> Iterator[tuple[KeyPath, str]]:
    """Faults of a value are placed at the value; those of a combination, at the value that they name."""
    same: dict[str, dict[str, int]] = {}
    for values, numbers in combinations(sweep):
        try:
            stage = type(base).model_validate(merged(base, sweep, values), strict=True)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                if details["type"] != "default_factory_not_called":
                    key = details["loc"][0]
                    path = ("grid", key, numbers[key]) if key in numbers else ("grid",)
                    below, text = explain(details, schema_of(type(base)))
                    yield path, text if key in numbers else f"{dotted(('stages', name, *below))}: {text}"
        else:
            first = same.setdefault(stage.model_dump_json(), numbers)
            for key in [key for key in numbers if numbers[key] != first[key]]:
                other = show(sweep.grid[key][first[key]])
                yield ("grid", key, numbers[key]), f"{show(values[key])} means the same as {other}; remove one of them"
            for key, why in why_not_swept(stage).items():
                text = f"{why}; train such stages one by one with heft train"
                yield (("grid", key, numbers[key]), text) if key in numbers else ((), f"stages.{name}.{key}: {text}")


def combinations(sweep: SweepSettings) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    """Each combination, and the number of each value in its list."""
    for numbered in itertools.product(*(enumerate(values) for values in sweep.grid.values())):
        yield (
            {key: value for key, (_, value) in zip(sweep.grid, numbered, strict=True)},
            {key: number for key, (number, _) in zip(sweep.grid, numbered, strict=True)},
        )


def merged(base: TrainingSettings, sweep: SweepSettings, values: dict[str, Any]) -> dict[str, Any]:
    """A stage as a person would write it; defaults are left out, since some follow from other settings."""
    holdout = sweep.holdout or base.holdout or HOLDOUT
    return {**base.model_dump(exclude_unset=True), "holdout": holdout, **values}
