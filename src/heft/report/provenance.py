"""All settings of all arms, what they were made with, and on which machine.

What differs between arms comes first, then what differs from the defaults; the rest is behind folds.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from heft.errors import HeftError
from heft.recipe.recipe import Recipe
from heft.report.parts import Cell, Heading, Section, Table, figure
from heft.report.subject import Subject
from heft.settings.words import dotted
from heft.text.units import in_digits

_ABSENT = "there is no such setting here"
_OF_A_RUN = ("seed", "output")


def section(subject: Subject) -> Section:
    """Tables of the recipes, of the versions, and of a study's own settings."""
    recipes = {}
    for arm in subject.arms:
        recipe = {key: value for key, value in arm.runs[0].recipe.items() if key not in _OF_A_RUN}
        recipes.setdefault(json.dumps(recipe, sort_keys=True), ([], recipe))[0].append(arm.name)
    settings = {", ".join(names): flat(recipe) for names, recipe in recipes.values()}
    made = {str(run.path): flat({"seed": run.seed, **run.manifest}) for run in subject.runs}
    of_runs = _turned("run", *_tables("what", "What differs between runs", "What every run was made with", made))
    tables = [
        *_settings(settings, list(recipes.values())),
        *[replace(table, folded=table.caption) for table in of_runs],
    ]
    for study in subject.studies:
        rest = {key: value for key, value in study.items() if key not in ("arms", "format")}
        caption = f"Settings of the study {study['name']}"
        tables += [replace(table, folded=caption) for table in _tables("setting", "", caption, {"": flat(rest)})]
    where = [] if len(of_runs) > 1 else [f"Runs: {', '.join(made)}."]  # else that table's rows name them
    return Section("settings", "Settings, versions, machine", where, tables=tables)


def _tables(what: str, differ: str, equal: str, columns: Mapping[str, Mapping[str, str]]) -> list[Table]:
    keys = list(dict.fromkeys(key for values in columns.values() for key in values))
    alike = [key for key in keys if len({values.get(key) for values in columns.values()}) == 1]
    unlike = [key for key in keys if key not in set(alike)]
    first = next(iter(columns.values()))
    tables = []
    if unlike:
        headings = [Heading(what, is_text=True), *(Heading(name, is_text=True) for name in columns)]
        rows = [[Cell(key), *(figure(v.get(key), str, _ABSENT) for v in columns.values())] for key in unlike]
        tables.append(Table(differ, headings, rows))
    if alike:
        headings = [Heading(what, is_text=True), Heading("value", is_text=True)]
        tables.append(Table(equal, headings, [[Cell(key), Cell(first[key])] for key in alike]))
    return tables


def _settings(settings: Mapping[str, Mapping[str, str]], recipes: Sequence[tuple[list[str], dict]]) -> list[Table]:
    """What differs between arms; of what all have in common, what is not a default, and the rest behind a fold."""
    *unlike, alike = _tables("setting", "Settings that differ between arms", "All other settings", settings)
    if alike.caption != "All other settings":
        return [*unlike, alike]
    own = not_defaults(recipes[0][1])
    if own is None:
        return [*unlike, replace(alike, folded="Settings of every arm")]
    chosen = [row for row in alike.rows if row[0].text in own]
    rest = [row for row in alike.rows if row[0].text not in own]
    tables = [Table("Settings that differ from the defaults", alike.headings, chosen)] if chosen else []
    folded = f"All other settings ({len(rest)}), at their defaults"
    return [*unlike, *tables, *([Table(alike.caption, alike.headings, rest, folded=folded)] if rest else [])]


def not_defaults(recipe: dict) -> set[str] | None:
    """Paths of the settings without which a recipe would be another one; None where it is of another version of heft.

    A list counts as one setting. What must be given is no default.
    """
    try:
        whole = Recipe.model_validate(recipe)
    except (ValidationError, HeftError):
        return None
    found = set()
    for path, _ in _leaves(recipe):
        try:
            without = Recipe.model_validate(_without(recipe, path))
        except (ValidationError, HeftError):
            found.add(dotted(path))
            continue
        if without != whole:
            found.add(dotted(path))
    return found


def _without(value: Mapping, path: Sequence[str]) -> dict:
    """A copy of nested settings that lacks one of them."""
    rest = {key: part for key, part in value.items() if key != path[0]}
    if len(path) == 1 or not isinstance(value.get(path[0]), Mapping):
        return rest
    return {**value, path[0]: _without(value[path[0]], path[1:])}


def _turned(what: str, *tables: Table) -> list[Table]:
    """Of two tables, the first with rows and columns changed over, since runs are many."""
    if len(tables) < 2:
        return list(tables)
    wide = tables[0]
    headings = [Heading(what, is_text=True), *(Heading(row[0].text, is_text=True) for row in wide.rows)]
    rows = [[Cell(h.text), *(row[i] for row in wide.rows)] for i, h in enumerate(wide.headings) if i]
    return [Table(wide.caption, headings, rows), *tables[1:]]


def flat(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as `stages.fine.rank` → text, lists and empty groups as JSON."""
    return {dotted(path): _in_words(value) for path, value in _leaves(values)}


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is no group, or an empty one, by its keys, some of which have dots in them (those of a `rank_pattern`)."""
    if isinstance(value, Mapping) and value:
        for name, part in value.items():
            yield from _leaves(part, (*path, name))
    else:
        yield path, value


def _in_words(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and abs(value) >= 1e6:
        return in_digits(value)
    return json.dumps(value, ensure_ascii=False)
