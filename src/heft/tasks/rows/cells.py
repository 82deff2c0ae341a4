"""Cells of a row: a column, or a part of one that holds an object or a list, by a path with dots."""

from collections.abc import Sequence
from typing import Any

from heft.errors import HeftError
from heft.settings.words import show

_MOST_DIGITS = 9
"""Of a place in a list that is written as text."""


def cell(row: dict, name: str) -> Any:
    """What a row has in a column, or in a part of one: `answers.text.0` is the first of a list in an object.

    A column whose own name has dots comes first. None where what would hold the part is null, or a list is shorter.

    Raises:
        HeftError: there is no such column, or its value has no such part.
    """
    if name in row:
        return row[name]
    keys = name.split(".")
    for count in range(len(keys) - 1, 0, -1):
        column = ".".join(keys[:count])
        if column in row:
            return _part(row[column], column, keys[count:])
    raise HeftError(f"there is no column {name!r} (the row has {', '.join(map(str, row)) or 'no columns'})")


def has_cell(row: dict, name: str) -> bool:
    """Whether a row has such a column, or such a part of one."""
    try:
        cell(row, name)
    except HeftError:
        return False
    return True


def index_in(text: str) -> int | None:
    """The place in a list that a text is, from 0; None where it is none."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


def _part(value: Any, where: str, keys: Sequence[str]) -> Any:
    for key in keys:
        if value is None:
            return None
        place = index_in(key)
        if isinstance(value, list) and place is not None:
            value = value[place] if place < len(value) else None
        elif isinstance(value, dict) and key in value:
            value = value[key]
        else:
            raise HeftError(f"{where} has no {key!r}; it is {show(value)}")
        where = f"{where}.{key}"
    return value
