"""Labels of rows: which there are, what they are called, and which choice an answer is."""

from collections.abc import Sequence
from typing import Any

from heft.errors import HeftError
from heft.settings.words import show
from heft.tasks.base import quotes_hint
from heft.tasks.rows.settings import RowsSettings
from heft.tasks.rows.template import text_of
from heft.text.listing import listed

MOST_LABELS = 1000
_MOST_DIGITS = 9
"""Of an index that is written as text."""


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
    elif (index := _index_in(text)) is not None and str(index) == text and index < len(names):
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
    if column not in row:
        raise HeftError(f"there is no column {column!r} (the row has {', '.join(map(str, row)) or 'no columns'})")
    label = text_of(named(settings, row[column]))
    if label is None:
        raise HeftError(f"{column} must be a label, text or a number; got {show(row[column])}")
    if not label.strip():
        raise HeftError(f"{column} is empty")
    return label.strip()


def names_hint(label: str, labels: Sequence[str]) -> str:
    """What to do about a label that can be the number of one of a list, counted from 0; empty for others."""
    index = _index_in(label)
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


def _index_in(text: str) -> int | None:
    """The index that a text is, from 0; None where it is none."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


def gold_index(answer: Any, choices: Sequence[str], columns: Sequence[str] = (), from_text: bool = False) -> int:
    """The index of the answer: given as the text of exactly one choice, as an index from 0, or as the choice's column.

    Args:
        answer: from the row.
        choices: texts of the choices.
        columns: that they stand in, if each has its own.
        from_text: whether an index may be written as text, as all cells of CSV are.

    Raises:
        HeftError: it is none of them, or could mean two choices.
    """
    if isinstance(answer, str):
        meant = {place for place, choice in enumerate(choices) if choice.strip() == answer.strip()}
        if choices.count(answer) == 1:
            meant = {choices.index(answer)}
        if answer in columns:
            meant |= {list(columns).index(answer)}
        index = _index_in(answer) if from_text else None
        if index is not None and index < len(choices):
            meant |= {index}
        if len(meant) == 1:
            return meant.pop()
        if index is not None and not meant:
            return _by_index(index, choices)
        if len(meant) > 1 and columns:
            could_be = [f"{show(choices[place])} (column {columns[place]})" for place in sorted(meant)]
            raise HeftError(
                f"answer {show(answer)}, as a text, a column or an index from 0, could mean {listed(could_be)}; write"
                " the right choice's column, and give columns names that are no choice's text"
            )
        also = f", one of the columns {', '.join(columns)}," if columns else ""
        raise HeftError(f"answer {show(answer)} must be the text of exactly one choice{also} or an index from 0")
    return _by_index(answer, choices)


def _by_index(answer: Any, choices: Sequence[str]) -> int:
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        expected = f"answer must be an index from 0 to {len(choices) - 1} or the text of a choice"
        raise HeftError(f"{expected}; got {show(answer)}{quotes_hint(answer)}")
    texts = [choice.strip() for choice in choices]
    if str(answer) in texts and texts[answer] != str(answer):
        raise HeftError(
            f"answer {answer} is the index of {show(choices[answer])}, counted from 0, and the text of another"
            " choice; write the right choice's text, in quotes"
        )
    return answer
