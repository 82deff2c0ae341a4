"""Recipes as files: a strict read that reports every fault with its line, and a write of the resolved recipe."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from heft.errors import HeftError
from heft.recipe.defaults import with_defaults_of
from heft.recipe.ready import located
from heft.recipe.recipe import EvaluationRequest, ModelRequest, Recipe
from heft.settings.base import Settings
from heft.settings.files import (
    Document,
    Place,
    apply_overrides,
    faults_error,
    read_document,
    require_mapping,
    set_value,
    to_yaml,
    validate,
)
from heft.settings.words import show
from heft.storage.reading import is_file
from heft.tasks import TASKS, allow_import_from, task_for
from heft.tasks.table import splits_of
from heft.text.command import command

_Request = TypeVar("_Request", bound=Settings)

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
    if not isinstance(path, str | os.PathLike):
        raise HeftError(
            f"a recipe's file was expected, by its path or its name; got {show(path)} (heft.train and heft.Recipe take"
            " settings as they are)"
        )
    path = located(path)
    of_a_run = _is_of_a_run(path)  # its rows may be gone
    allow_imports_for(path)
    document = read_recipe_document(path)
    apply_overrides(document, overrides, output)
    return validate(document, Recipe) if of_a_run else _checked(document)


def allow_imports_for(path: Path) -> None:
    """Import classes of tasks from a recipe's folder and the working directory, unless it is a run's."""
    if not _is_of_a_run(path):
        allow_import_from(path.parent, Path())


def recipe_of_values(
    values: Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    output: str | Path | None = None,
) -> Recipe:
    """A recipe from Python: a mapping with its keys, whose values may be settings, or a recipe that is to be changed.

    Args:
        values: as they would stand in a file; relative paths count from the working directory.
        overrides: `key.path=value` each, as for `load_recipe`, or a mapping from `key.path` to values.
        output: replaces the recipe's `output`.

    Raises:
        HeftError: anything in it is wrong, one line per fault.
    """
    document = Document(_plain(values), {(): Place(0, 0, "recipe")})
    require_mapping(document, Recipe, "recipe")
    if isinstance(overrides, Mapping):
        for number, (key, value) in enumerate(overrides.items(), start=1):
            place = Place(number, 0, f"overrides[{key!r}]")
            set_value(document, tuple(str(key).split(".")), Document(_plain(value), {(): place}), place)
        overrides = ()
    apply_overrides(document, overrides, output)
    allow_import_from(Path())
    return _checked(document)


def _checked(document: Document) -> Recipe:
    """The recipe that a person is to run, with settings that fit its rows."""
    recipe = validate(document, Recipe)
    for key, text in task_for(recipe.task).setting_faults().items():
        document.fault(("task", key), text)
    if document.faults:
        raise faults_error(document.faults)
    return recipe


def _plain(value: Any) -> Any:
    """Settings and mappings as dicts of what was set; all else as it is."""
    if isinstance(value, Settings):
        fields = type(value).model_fields
        names = value.model_fields_set | ({"name", "method"} & fields.keys())
        return {field.alias or name: _plain(getattr(value, name)) for name, field in fields.items() if name in names}
    if isinstance(value, Mapping) and not splits_of(value):  # a data set's splits are rows, and no settings
        return {key: _plain(each) for key, each in value.items()}
    return value


def read_recipe_document(path: Path, source: int = 0) -> Document:
    """Read a recipe's file; paths of rows in it count from its folder, and are absolute in what is read.

    Those of overrides count from the working directory, as a person types them there.

    Raises:
        HeftError: the file cannot be read, or is a study.
    """
    document = read_document(path, Recipe, "recipe", EXAMPLE, source)
    keys = document.data.keys() if isinstance(document.data, dict) else ()
    if "arms" in keys and "stages" not in keys:
        raise HeftError(f"{path} is a study, and a recipe was expected; `{command('compare', path)}` runs a study")
    task = document.data.get("task") if isinstance(document.data, dict) else None
    if isinstance(task, dict):
        task.update(with_paths_from(task, path.parent, is_saved=_is_of_a_run(path)))
    return document


def with_paths_from(task: dict[str, Any], folder: Path, is_saved: bool = True) -> dict[str, Any]:
    """The settings of a task whose paths of rows count from a folder, with absolute ones.

    Runs and adapters save paths that are absolute, or of rows in a folder of theirs: another one is an older version's,
    which counts from the working directory.
    """
    name = task.get("name")
    if not isinstance(name, str) or name not in TASKS or (is_saved and name != "rows"):
        return task
    return task | TASKS[name].settings_type.located(task, folder)


def _is_of_a_run(path: Path) -> bool:
    """Whether a recipe is a run's, perhaps a stranger's."""
    return is_file(path.parent / "manifest.json")


def evaluation_request(
    values: dict[str, Any], overrides: Sequence[str] = (), where: str = "heft eval"
) -> EvaluationRequest:
    """The settings of `heft eval`: values from the command line or an adapter directory, then overrides as in a recipe.

    `where` is where the values come from, for messages.

    Raises:
        HeftError: anything in them is wrong; the message has one line per fault.
    """
    return _request(EvaluationRequest, values, overrides, where)


def model_request(values: dict[str, Any], overrides: Sequence[str] = (), where: str = "heft eval") -> ModelRequest:
    """As `evaluation_request`, without a task."""
    return _request(ModelRequest, values, overrides, where)


def _request(kind: type[_Request], values: dict[str, Any], overrides: Sequence[str], where: str) -> _Request:
    document = Document(values, {(): Place(0, 0, where)})
    apply_overrides(document, overrides)
    return validate(document, kind)


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with what its training rows decide, such as their labels, written out, and paths of rows absolute.

    Raises:
        HeftError: the rows cannot be read.
    """
    return recipe.model_copy(update={"task": task_for(recipe.task).resolved()})


def rows_in_memory(recipe: Recipe) -> dict[str, list[dict]]:
    """Rows that a recipe holds itself, by their setting (train, eval)."""
    found = {key: getattr(recipe.task, key, None) for key in ("train", "eval")}
    return {key: rows for key, rows in found.items() if isinstance(rows, list)}


def with_rows_as_files(recipe: Recipe, folder: str = "rows") -> Recipe:
    """The recipe with rows in memory as files of JSON Lines, `<setting>.jsonl` of a folder."""
    return _with_task(recipe, {key: f"{folder}/{key}.jsonl" for key in rows_in_memory(recipe)})


def _with_task(recipe: Recipe, update: dict[str, Any]) -> Recipe:
    return recipe.model_copy(update={"task": recipe.task.model_copy(update=update)})


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as YAML with every default written out; reading it back gives an equal recipe."""
    return to_yaml(recipe_values(recipe))


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, from which `recipe_of_values` makes an equal one."""
    data = recipe.model_dump(mode="json")
    data["task"] = {"name": data["task"]["name"]} | data["task"]
    data["stages"] = {name: {"method": stage["method"]} | stage for name, stage in data["stages"].items()}
    return data


ONLY_WRITING = {"output", "checkpoint", "trackers"}
"""Settings of where a run is written, when it is checkpointed and who hears of it, which do not change its result."""


def difference(there: Recipe, wanted: Recipe) -> str | None:
    """The first setting in which two recipes differ, such as `stages.fine.rank: 4, not 8`; None where they do not.

    `ONLY_WRITING` is not compared, nor is a date or an `auto` that the wanted recipe leaves open, nor rows in memory,
    whose content is compared once it is read. Labels that the wanted recipe leaves open are those of its rows.
    """
    wanted = with_defaults_of(there, with_date_of(there, wanted))
    if there.task != wanted.task and there.task.name == wanted.task.name:
        wanted = resolved(_with_task(wanted, {key: getattr(there.task, key) for key in rows_in_memory(wanted)}))
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
    return _with_task(recipe, {"template_date": date})


def _flat(value: object, key: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {key: value}
    return {k: v for name, below in value.items() for k, v in _flat(below, f"{key}.{name}".lstrip(".")).items()}
