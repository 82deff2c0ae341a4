"""Labels of rows: which there are, and what they are called."""

from collections.abc import Sequence
from typing import Any

from heft.errors import HeftError
from heft.settings.words import show
from heft.tasks.rows.cells import cell, index_in
from heft.tasks.rows.settings import RowsSettings
from heft.tasks.rows.template import text_of

MOST_LABELS = 1000


def named(settings: RowsSettings, value: Any) -> Any:
    """What a label is called: its name where `label_names` has one, else itself.

    Raises:
        HeftError: there are names, and none for this label.
    """
    names, text = settings.label_names, text_of(value)
    if names is None or text is None:
        return value
    text = text.strip()
    if isinstance(names, dict):
        if text in names:
            return names[text].strip()
    elif (index := index_in(text)) is not None and str(index) == text and index < len(names):
        return names[index].strip()
    if text in name_list(names):
        return text
    known = ", ".join(names) if isinstance(names, dict) else f"0 to {len(names) - 1}"
    raise HeftError(f"label {show(value)} has no name; task.label_names has {known}")


def name_list(names: list[str] | dict[str, str]) -> list[str]:
    """The names of labels, each once, in their order, without whitespace at their ends, as labels of rows are read."""
    return list(dict.fromkeys(name.strip() for name in (names.values() if isinstance(names, dict) else names)))


def label_text(settings: RowsSettings, row: dict) -> str:
    """The label of a row, as text, by its name.

    Raises:
        HeftError: there is none, or it is no text and no number.
    """
    column = settings.answer
    value = cell(row, column)
    label = text_of(named(settings, value))
    if label is None:
        raise HeftError(f"{column} must be a label, text or a number; got {show(value)}")
    if not label.strip():
        raise HeftError(f"{column} is empty")
    return label.strip()


def names_hint(label: str, labels: Sequence[str]) -> str:
    """What to do about a label that can be the number of one of a list, counted from 0; empty for others."""
    index = index_in(label)
    if index is None or index >= len(labels):
        return ""
    return "; if it is a label's number, counted from 0, give the list as task.label_names in place of task.choices"


def labels_found(settings: RowsSettings, rows: Sequence[dict]) -> list[str]:
    """The labels that rows have, numbers by size, else by the alphabet; those of `label_names` in their order.

    Raises:
        HeftError: there is one only, or so many that they are no labels; where no row has one, what is wrong with the
            first.
    """
    found, first_fault = set(), None
    for row in rows:
        try:
            found.add(label_text(settings, row))
        except HeftError as fault:
            first_fault = first_fault or fault  # each is reported at its place, when examples are made
    if not found and first_fault is not None:
        raise first_fault
    if len(found) < 2:
        what = f"one label only, {show(found.pop())}" if found else "no labels"
        others = "" if first_fault is None else f", and of the others {first_fault}"
        raise HeftError(
            f"task.choices: the training rows have {what} in {settings.answer!r}; expected at least two{others}"
        )
    if len(found) > MOST_LABELS:
        raise HeftError(
            f"task.choices: {settings.answer!r} has {len(found):,} different texts, which are no labels; remove"
            " choices, and the answer is generated"
        )
    if settings.label_names is not None:
        return [name for name in name_list(settings.label_names) if name in found]
    by_alphabet = sorted(found)  # first, since 7 and 007 are two labels of one size
    return sorted(by_alphabet, key=int) if all(map(_is_number, found)) else by_alphabet


def _is_number(label: str) -> bool:
    digits = label.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) < 300
