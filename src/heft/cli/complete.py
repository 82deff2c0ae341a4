"""What the shell completes: recipes by name and path, tasks, and keys of `--set`. Without torch.

typer calls these while a person types; an answer that cannot be found is no answer, never an error.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click


def complete_names(incomplete: str) -> list[str]:
    """Names of recipes and studies that come with heft."""
    from heft.recipe.ready import ready_recipes

    return [each.name for each in ready_recipes() if each.name.startswith(incomplete)]


def complete_recipes(incomplete: str) -> list[str]:
    """Names of ready recipes that one command trains, and YAML files and folders below what is typed."""
    from heft.recipe.ready import ready_recipes

    names = [each.name for each in ready_recipes() if each.command != "compare" and each.name.startswith(incomplete)]
    return [*names, *_paths(incomplete, (".yaml", ".yml"))]


def complete_tasks(incomplete: str) -> list[str]:
    """Names of tasks."""
    from heft.tasks import TASKS

    return [name for name in TASKS if name.startswith(incomplete)]


def complete_settings(ctx: click.Context, incomplete: str) -> list[str]:
    """Keys for `--set`, each with its `=`: those of the recipe that is on the line, where there is one.

    Keys of tasks are those of the recipe's task, or of all; those of stages need the recipe, whose names they have.
    """
    if "=" in incomplete:
        return []
    given = _recipe_on_the_line(ctx)
    keys = [f"{key}=" for key in _keys(given) if key.startswith(incomplete)]
    return sorted(dict.fromkeys(keys))


def _recipe_on_the_line(ctx: click.Context) -> dict[str, Any]:
    from heft.errors import HeftError
    from heft.recipe.ready import located
    from heft.settings.yaml import read_yaml_file

    try:
        words = [ctx.params.get("recipe"), *ctx.args]  # while an option lacks its value, arguments are left over
        data = read_yaml_file(located(next(filter(None, words), "")), "recipe", "").data
    except HeftError:
        return {}
    return data if isinstance(data, dict) else {}


def _keys(given: dict[str, Any]) -> Iterator[str]:
    from heft.recipe.recipe import Recipe
    from heft.settings.words import entry, resolve, schema_of, variants

    for key, node in schema_of(Recipe)["properties"].items():
        if key == "stages":
            stages = given.get(key)
            members = variants(entry(node) or {})
            for name, stage in stages.items() if isinstance(stages, dict) else ():
                yield from _below(f"stages.{name}", members.get(_word(stage, "method"), {}))
        elif members := variants(node):
            name = _word(given.get(key), "name")
            for member in [members[name]] if name in members else members.values():
                yield from _below(key, member)
        elif "properties" in resolve(node):
            yield from _below(key, node)
        else:
            yield key


def _word(settings: Any, key: str) -> str:
    """The text at a key of what may be no mapping, or hold something else there; empty then."""
    word = settings.get(key) if isinstance(settings, dict) else None
    return word if isinstance(word, str) else ""


def _below(path: str, node: dict[str, Any]) -> Iterator[str]:
    from heft.settings.words import resolve

    for key, value in resolve(node).get("properties", {}).items():
        if "properties" in resolve(value):
            yield from _below(f"{path}.{key}", value)
        else:
            yield f"{path}.{key}"


def _paths(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Files of these endings, and folders with a slash, in the folder that is typed so far."""
    typed = Path(incomplete)
    folder, start = (typed, "") if incomplete.endswith("/") or not incomplete else (typed.parent, typed.name)
    try:
        inside = sorted(folder.expanduser().iterdir())
    except (OSError, RuntimeError):  # RuntimeError: of ~ and the name of nobody
        return []
    prefix = incomplete[: len(incomplete) - len(start)]
    found = [each for each in inside if each.name.startswith(start) and (start or not each.name.startswith("."))]
    return [
        f"{prefix}{each.name}{'/' if each.is_dir() else ''}"
        for each in found
        if each.is_dir() or each.name.endswith(endings)
    ]
