"""Prompts from columns: `Ticket: {text}` filled with a row."""

import json
import re
from functools import cached_property
from typing import Any

from heft.errors import HeftError
from heft.settings.words import show
from heft.tasks.rows.cells import cell
from heft.text.listing import listed

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template:
    """Text with columns in braces; two braces stand for one.

    A name is all that stands between the braces, spaces included, and dots, which may lead to a part of a column
    (heft.tasks.rows.cells); a value is never formatted in any way but as the text that it is.

    Raises:
        ValueError: braces are not closed, or hold no name.
    """

    def __init__(self, text: str):
        self.text = text
        self._parts = _parts_of(text)

    @cached_property
    def columns(self) -> list[str]:
        """The columns that it names, in order."""
        return [name for _, name in self._parts if name is not None]

    def fits(self, text: str) -> bool:
        """Whether a text has the parts of the template around its columns, so that it can have been filled already."""
        literals = [literal.strip() for literal, _ in self._parts if literal.strip()]
        start = self._parts[0][0].strip()
        return bool(literals) and text.strip().startswith(start) and all(literal in text for literal in literals)

    def fill(self, row: dict) -> str:
        """The text with a row's values, of which some may be empty.

        Raises:
            HeftError: a column is missing, or holds no text, or all are empty, so that nothing is asked.
        """
        if not any(text_of_column(row, name, empty=True).strip() for name in self.columns):
            names = list(dict.fromkeys(self.columns))
            raise HeftError(f"{listed(names)} {'is' if len(names) == 1 else 'are'} empty, so nothing is asked")
        return "".join(
            literal + ("" if name is None else text_of_column(row, name, empty=True)) for literal, name in self._parts
        )


def _parts_of(text: str) -> list[tuple[str, str | None]]:
    """What stands before each column, and the column; behind the last one None."""
    parts: list[tuple[str, str | None]] = []
    literal, done = "", 0
    for found in _BRACES.finditer(text):
        literal, done = literal + text[done : found.start()], found.end()
        if found[0] in ("{{", "}}"):
            literal += found[0][0]
        elif found[1] is None:
            raise ValueError(f"not a template: a {found[0]} has no other; one that is text of its own is written twice")
        elif not found[1].strip():
            raise ValueError("braces hold no column; one that is text of its own is written twice: {{ and }}")
        else:
            parts.append((literal, found[1]))
            literal = ""
    return [*parts, (literal + text[done:], None)]


def text_of_column(row: dict, name: str, empty: bool = False) -> str:
    """The text in a column of a row, numbers as JSON writes them.

    Raises:
        HeftError: it is missing, holds no text, or is empty where that is not allowed.
    """
    value = cell(row, name)
    text = text_of(value)
    if text is None and not (empty and value is None):
        raise HeftError(f"{name} must be text; got {show(value)}")
    if not empty and not text.strip():
        raise HeftError(f"{name} is empty")
    return text or ""


def text_of(value: Any) -> str | None:
    """Text, or a number or truth value as JSON writes it, 1.0 as 1; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | int | float) and value == value and abs(value) != float("inf"):
        return json.dumps(value)
    return None
