"""Training settings that a recipe leaves to the rows and the model: `epochs: auto` and `learning_rate: auto`.

Every rule is a line here; docs/defaults.md holds what they were measured against. Numbers in a recipe override them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from heft.recipe.grid import Configuration, configurations, last_stage
from heft.recipe.recipe import JointStage, Recipe, Stage

STEPS = 120
"""Optimizer steps that a stage takes at least, as far as `MOST_EPOCHS` allow: few rows are seen more often."""
LEAST_EPOCHS, MOST_EPOCHS = 3, 12
LARGE = 20_000
"""Rows from which one pass is enough; between 3,000 and these, two are."""
RATES = {"lora": ((1e9, 1e-3), (4e9, 5e-4), (math.inf, 2e-4)), "reft": ((1e9, 2e-3), (4e9, 1e-3), (math.inf, 5e-4))}
"""Learning rate by method, for models of fewer parameters than stand beside it: small models take larger ones."""


@dataclass(frozen=True)
class Facts:
    """What the rules ask for.

    Attributes:
        rows: to train on, validation rows among them.
        parameters: of the base model.
    """

    rows: int
    parameters: int


def epochs_for(rows: int, batch_size: int) -> float:
    """Passes over so many rows."""
    if rows >= 3_000:
        return 1.0 if rows >= LARGE else 2.0
    return float(min(MOST_EPOCHS, max(LEAST_EPOCHS, math.ceil(STEPS * batch_size / rows))))


def rate_for(method: str, parameters: int) -> float:
    """Learning rate of a method ("lora" or "reft") for a model of so many parameters."""
    return next(rate for limit, rate in RATES[method] if parameters < limit)


def with_defaults(recipe: Recipe, facts: Facts, say: Callable[[str], None] | None = None) -> Recipe:
    """The recipe with numbers in place of every `auto` of its training; the same where there is none.

    The stage that a sweep varies stays as it is: its configurations have numbers of their own (`settled`). `say` is
    given a line for each stage that has an `auto`: what was chosen, and why.
    """
    for line in chosen_in_words(recipe, facts) if say else ():
        say(line)
    stages = {name: stage.model_copy(update=_chosen(stage, facts)) for name, stage in recipe.stages.items()}
    varied = {} if recipe.sweep is None else dict([last_stage(recipe)])
    return recipe.model_copy(update={"stages": stages | varied})


def settled(tried: Sequence[Configuration], facts: Facts) -> list[Configuration]:
    """Configurations of a sweep with numbers in place of every `auto`, as a run of each alone has them."""
    return [replace(each, stage=each.stage.model_copy(update=_chosen(each.stage, facts))) for each in tried]


def chosen_in_words(recipe: Recipe, facts: Facts) -> list[str]:
    """For each stage with an `auto`, a line that says what it is and why; configurations of a sweep may differ."""
    lines = []
    for name, stage in _trained(recipe):
        values = ", ".join(f"{key} {value:g}" for key, value in _chosen(stage, facts).items())
        if values:
            size = f"{facts.parameters / 1e6:,.0f} million parameters"
            lines.append(f"{name}: {values} (auto, for {facts.rows:,} rows and {size})")
    return list(dict.fromkeys(lines))


def _trained(recipe: Recipe) -> Iterator[tuple[str, Stage]]:
    """The stages, by name; in place of the one that a sweep varies its configurations."""
    if recipe.sweep is None:
        yield from recipe.stages.items()
        return
    *others, (name, _) = recipe.stages.items()
    yield from others
    yield from ((name, each.stage) for each in configurations(recipe))


def with_defaults_of(there: Recipe, wanted: Recipe) -> Recipe:
    """The wanted recipe, with the numbers of an existing run of it in place of `auto`."""
    stages = {}
    for name, stage in wanted.stages.items():
        begun = there.stages.get(name)
        keys = [key for key in ("epochs", "learning_rate") if begun is not None and getattr(stage, key) == "auto"]
        taken = {key: getattr(begun, key) for key in keys}
        if "learning_rate" in keys and isinstance(stage, JointStage) and isinstance(begun, JointStage):
            taken |= {"reft_learning_rate": stage.reft_learning_rate or begun.reft_learning_rate}
        stages[name] = stage.model_copy(update=taken)
    return wanted.model_copy(update={"stages": stages})


def _chosen(stage: Stage, facts: Facts) -> dict[str, float]:
    """A stage's `auto` settings as numbers."""
    if getattr(stage, "is_frozen", False):
        return {}
    found = {}
    if stage.epochs == "auto":
        found["epochs"] = epochs_for(facts.rows, stage.batch_size)
    if stage.learning_rate == "auto":
        found["learning_rate"] = rate_for("reft" if stage.method == "reft" else "lora", facts.parameters)
        if isinstance(stage, JointStage) and stage.reft_learning_rate is None:
            found["reft_learning_rate"] = rate_for("reft", facts.parameters)
    return found
