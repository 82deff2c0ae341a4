"""Which columns hold the choices of each row, and which one says what is right."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from heft.errors import HeftError
from heft.tasks.guess.columns import Column
from heft.tasks.rows.cells import cell, has_cell
from heft.tasks.rows.own_choices import Names, OwnChoices, choices_in_column
from heft.tasks.rows.template import text_of
from heft.tasks.table import Row

_GOLD_NAMES = (
    *("answer", "answerkey", "answeridx", "answerindex", "label", "labelidx", "correct", "gold", "goldlabel", "target"),
    *("solution", "cop", "bestanswer", "rightanswer", "correctanswer", "correctoption", "correctchoice"),
    *("correctindex", "correctidx", "correctanswerindex", "correctansweridx"),
)
_CHOICE_NAME = re.compile(r"(?i)op[a-h]|(?:[a-h]|(?:option|choice|sol|ending|answer|opt)_?-?\s?(?:[a-h]|\d\d?))")
_WRONG_NAME = re.compile(r"(?:distractor|(?:incorrect|wrong)(?:answer|option|choice)?)s?\d*")
_LIST_NAMES = ("choices", "options", "endings", "candidates", "alternatives", "answerchoices", "answeroptions")
_LIST_NAMES_OR_ANSWERS = (*_LIST_NAMES, "answers")
"""`answers` may be several right ones, too."""
_SHARE_THAT_FITS = 0.9
"""Of the rows that have an answer, that must say which choice is right; the others are faults of theirs."""


@dataclass(frozen=True)
class FoundChoices:
    """Where the choices of rows are.

    Attributes:
        choices: the columns that hold one each, or the one that holds them all.
        answer: the column that says which is right; one of the choices where it is always the right one.
        names: for its values, where they are not those that the task `rows` reads; else None.
        why: the reason, for people.
    """

    choices: list[str] | str
    answer: str
    names: dict[str, str] | None
    why: str

    def telling(self, columns: Iterable[str]) -> list[str]:
        """Those columns that hold the choices, or tell which is right."""
        held = [*([self.choices] if isinstance(self.choices, str) else self.choices), self.answer]
        return [*held, *(name for name in columns if _tells(name) or any(name.startswith(f"{each}.") for each in held))]


def find_choices(columns: Mapping[str, Column], rows: Sequence[Row], answer: str | None) -> FoundChoices | None:
    """Where the choices of rows are; None where rows have none of their own.

    Args:
        columns: of the table.
        rows: of it.
        answer: column that the person gave; None to find one.
    """
    named = [answer] if answer else list(filter(_tells, columns))
    return _one_in_each_column(columns, rows, named) or _right_and_wrong(columns, named) or _all_in_one(rows, named)


def _tells(name: str) -> bool:
    """Whether a column is called as one that says which choice is right."""
    return _plain(name) in _GOLD_NAMES


def _plain(name: str) -> str:
    """A name without case and signs, so that `Correct Answer` and `correct_answer` are one."""
    return re.sub(r"[\W_]+", "", name).lower()


def _one_in_each_column(
    columns: Mapping[str, Column], rows: Sequence[Row], named: Sequence[str]
) -> FoundChoices | None:
    """Columns that are called as choices are (A, B, …; option1, …), at least two of one series."""
    series: dict[str, list[str]] = {}
    for name in columns:
        if _CHOICE_NAME.fullmatch(name):
            series.setdefault(re.sub(r"\d+$|.$", "", name).lower(), []).append(name)
    choices = max(series.values(), key=len, default=[])
    gold = _gold_of(columns, choices, rows, named) if len(choices) > 1 else None
    if gold is None:
        return None
    answer, names = gold
    counted = ", counted from 1" if names is not None and "1" in names and "0" not in names else ""
    why = f"{_quoted(choices)} hold the choices of each row, and {answer!r} says which is right{counted}."
    return FoundChoices(choices, answer, names, why)


def _gold_of(
    columns: Mapping[str, Column], choices: list[str], rows: Sequence[Row], named: Sequence[str]
) -> tuple[str, dict[str, str] | None] | None:
    """The column that says which choice is right, with names for its values where they are not those that the task
    `rows` reads: letters, numbers from 1, or from 0 among choices that are such numbers themselves.

    Values that are the texts of choices in every row are these, even where they are letters or small numbers too.
    """
    for name in named:
        values = set() if name in choices else set(columns[name].values)
        if not values:
            continue
        if values <= set(choices) or all(_is_text_of_a_choice(row, name, choices) for _, row in rows):
            return name, None
        from_0, from_1 = ({str(i): column for i, column in enumerate(choices, start)} for start in (0, 1))
        if values <= from_0.keys() and not (values <= from_1.keys() and _are_numbered(choices, from_1)):
            are_alike = any(from_0.keys() & set(columns[choice].values) for choice in choices)
            return name, from_0 if are_alike else None
        if values <= from_1.keys():
            return name, from_1
        for letters in (ascii_uppercase, ascii_lowercase):
            by_letter = dict(zip(letters, choices, strict=False))
            if values <= by_letter.keys():
                return name, by_letter
    return None


def _is_text_of_a_choice(row: dict[str, Any], name: str, choices: Sequence[str]) -> bool:
    """Whether a row's answer, if it has one, is what stands in one of the columns of choices."""
    answer, *texts = ((text_of(_value(row, column)) or "").strip() for column in (name, *choices))
    return not answer or answer in texts


def _are_numbered(choices: Sequence[str], numbers: Mapping[str, str]) -> bool:
    """Whether the names of columns end with the numbers that stand for them."""
    return all(column.endswith(number) for number, column in numbers.items())


def _right_and_wrong(columns: Mapping[str, Column], named: Sequence[str]) -> FoundChoices | None:
    """A column of right answers beside columns of wrong ones, each with one or with a list."""
    wrong = [name for name, column in columns.items() if _WRONG_NAME.fullmatch(_plain(name)) and _is_filled(column)]
    right = next((name for name in named if name not in wrong and len(set(columns[name].values)) > 1), None)
    if right is None or not wrong:
        return None
    why = f"{right!r} is the right choice of each row, among those of {_quoted(wrong)}; their order is drawn."
    return FoundChoices([right, *wrong], right, None, why)


def _is_filled(column: Column) -> bool:
    return len(column.values) + column.lists >= _SHARE_THAT_FITS * column.rows


def _all_in_one(rows: Sequence[Row], named: Sequence[str]) -> FoundChoices | None:
    """A column that holds the choices of a row, whatever they are in (heft.tasks.rows.own_choices)."""
    for column in _columns_of_choices(rows, _LIST_NAMES_OR_ANSWERS):
        own = [(row, choices_in_column(row, column)) for _, row in rows if _has_choices(row, column)]
        for name in named:
            fits = [(_share_that_fits(own, name, names), names) for names in _possible_names(own, name)]
            share, names = max(fits, key=lambda each: each[0])  # of those that fit alike, the first
            if share >= _SHARE_THAT_FITS:
                counted = ", counted from 1" if names is not None and "0" not in names else ""
                why = f"{column!r} holds the choices of each row, and {name!r} says which is right{counted}."
                return FoundChoices(column, name, names, why)
    return None


def _columns_of_choices(rows: Sequence[Row], called: Sequence[str]) -> list[str]:
    """Columns that are called as those of choices are, and hold them."""
    found = dict.fromkeys(name for _, row in rows for name in row if _plain(name) in called)
    return [name for name in found if sum(_has_choices(row, name) for _, row in rows) >= _SHARE_THAT_FITS * len(rows)]


def _has_choices(row: dict[str, Any], column: str) -> bool:
    try:
        choices_in_column(row, column)
    except HeftError:
        return False
    return True


def _possible_names(own: Sequence[tuple[dict[str, Any], OwnChoices]], answer: str) -> list[dict[str, str] | None]:
    """None, and letters for numbers from 0 and from 1 where these are what answers are and choices have no labels."""
    texts = [text_of(_value(row, answer)) for row, _ in own]
    if any(choices.of is Names.LABELS for _, choices in own) or not all(text and text.isdecimal() for text in texts):
        return [None]
    letters = ascii_uppercase[: max(len(choices.texts) for _, choices in own)]
    return [None, *({str(number): letter for number, letter in enumerate(letters, start)} for start in (0, 1))]


def _share_that_fits(
    own: Sequence[tuple[dict[str, Any], OwnChoices]], answer: str, names: Mapping[str, str] | None
) -> float:
    """The share of rows with an answer in which it says which choice is right; 0 without any."""
    fit = []
    for row, choices in own:
        value = _value(row, answer)
        text = text_of(value)
        if text is None or not text.strip():
            continue
        try:
            choices.gold(value if names is None else names.get(text.strip(), value), names is not None)
        except HeftError:
            fit.append(False)
        else:
            fit.append(True)
    return sum(fit) / len(fit) if fit else 0.0


def require_an_answer(columns: Mapping[str, Column], rows: Sequence[Row]) -> None:
    """Refuse rows with choices of which none is said to be right: any other task would not show them.

    Raises:
        HeftError: a column can only be choices.
    """
    found = _columns_of_choices(rows, _LIST_NAMES)
    if found:
        raise HeftError(
            f"{found[0]!r} holds the choices of each row, and no column says which is right by its text, its letter or"
            f" label, or its number from 0; the columns are {', '.join(columns)}; name one with --answer"
        )


def _value(row: dict[str, Any], name: str) -> Any:
    return cell(row, name) if has_cell(row, name) else None


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
