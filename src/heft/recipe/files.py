"""Recipes as files: a strict read that reports every fault with its line, and a write of the resolved recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heft.recipe.ready import located
from heft.recipe.recipe import EvaluationRequest, Recipe
from heft.settings.files import Document, Place, apply_overrides, read_document, to_yaml, validate

EXAMPLE = "quickstart (`heft recipes` has all)"
"""Of a recipe, for messages."""


def load_recipe(path: str | Path, overrides: Sequence[str] = (), output: str | Path | None = None) -> Recipe:
    """Read a recipe, apply overrides in order, check everything.

    Args:
        path: a YAML file, or the name of a recipe that comes with heft, such as `quickstart` (heft.recipe.ready).
        overrides: `key.path=value` each, the value as YAML, such as `stages.fine.rank=4`.
        output: replaces the recipe's `output`.

    Raises:
        HeftError: the file cannot be read, or anything in it or in the overrides is wrong; the message has one line per
            fault, in the order in which they were written.
    """
    document = read_document(located(path), Recipe, "recipe", EXAMPLE)
    apply_overrides(document, overrides, output)
    return validate(document, Recipe)


def evaluation_request(
    values: dict[str, Any], overrides: Sequence[str] = (), where: str = "heft eval"
) -> EvaluationRequest:
    """The settings of `heft eval`: values from the command line or an adapter directory, then overrides as in a recipe.

    `where` is where the values come from, for messages.

    Raises:
        HeftError: anything in them is wrong; the message has one line per fault.
    """
    document = Document(values, {(): Place(0, 0, where)})
    apply_overrides(document, overrides)
    return validate(document, EvaluationRequest)


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as YAML with every default written out; reading it back gives an equal recipe."""
    data = recipe.model_dump(mode="json")
    data["task"] = {"name": data["task"]["name"]} | data["task"]
    data["stages"] = {name: {"method": stage["method"]} | stage for name, stage in data["stages"].items()}
    return to_yaml(data)


ONLY_WRITING = {"output", "checkpoint", "trackers"}
"""Settings of where a run is written, when it is checkpointed and who hears of it, which do not change its result."""


def difference(there: Recipe, wanted: Recipe) -> str | None:
    """The first setting in which two recipes differ, such as `stages.fine.rank: 4, not 8`; None where they do not.

    `ONLY_WRITING` is not compared, nor is a date that the wanted recipe leaves open.
    """
    wanted = with_date_of(there, wanted)
    one, other = (_flat(recipe.model_dump(mode="json", exclude=ONLY_WRITING)) for recipe in (there, wanted))
    key = next((key for key in [*one, *other] if one.get(key) != other.get(key)), None)
    return None if key is None else f"{key}: {one.get(key)}, not {other.get(key)}"


def with_date_of(there: Recipe, wanted: Recipe) -> Recipe:
    """The wanted recipe, with the date of its chat template from the existing run, where it leaves that open."""
    if there.task.template_date is None or wanted.task.template_date is not None:
        return wanted
    return with_date(wanted, there.task.template_date)


def with_date(recipe: Recipe, date: str) -> Recipe:
    """The recipe with a date for its chat template."""
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"template_date": date})})


def _flat(value: object, key: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {key: value}
    return {k: v for name, below in value.items() for k, v in _flat(below, f"{key}.{name}".lstrip(".")).items()}
