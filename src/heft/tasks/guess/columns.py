"""The columns of a table, and what their cells are like."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from heft.tasks.rows.template import text_of
from heft.tasks.table import Row

_ID_NAME = re.compile(r"(?i)(?:.*[_ -])?(?:id|idx|index|uuid|guid|key|number|nr|no)|unnamed: \d+|.*(?:Id|ID)")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?(?:[T ].*)?|\d\d?[./]\d\d?[./]\d{2,4}(?: .*)?")
_MOST_LABELS = 200
_ROWS_PER_LABEL = 3
"""Rows that a label has on average at least: fewer, and the column is text, not labels."""
_LABEL_LENGTH = 60
_BARE = ("text", "texts", "value", "content")
"""Names of parts that say nothing beside the name of their column."""


@dataclass(frozen=True)
class Column:
    """What the cells of a column are like, or of a part of one that holds objects.

    Attributes:
        path: its name; of a part, the names that lead to it.
        values: the texts; empty ones are not counted.
        lists: how many cells are lists.
        firsts: of these, the first texts.
        rows: how many rows there are.
    """

    path: tuple[str, ...]
    values: Sequence[str]
    lists: int
    firsts: Sequence[str]
    rows: int

    @property
    def name(self) -> str:
        """As a template names it."""
        return ".".join(self.path)

    @property
    def called(self) -> str:
        """Its own name; of a part, the last one that says something."""
        saying = [part for part in self.path if part.lower() not in _BARE and not part.isdecimal()]
        return (saying or self.path)[-1]

    @property
    def heading(self) -> str:
        """Its name as text of a template; one of several answers is an answer."""
        words = re.sub(r"[_\s-]+", " ", self.called).strip()
        words = words.removesuffix("s") if self.path[-1] == "0" else words
        return (words[:1].upper() + words[1:]).replace("{", "{{").replace("}", "}}")

    @property
    def first_of_lists(self) -> "Column":
        """The column of what its lists have first."""
        return Column((*self.path, "0"), self.firsts, 0, (), self.rows)

    @property
    def distinct(self) -> int:
        return len(set(self.values))

    @property
    def length(self) -> float:
        """Mean number of characters."""
        return sum(map(len, self.values)) / max(1, len(self.values))

    @property
    def is_date(self) -> bool:
        return bool(self.values) and all(_DATE.fullmatch(value) for value in self.values)

    @property
    def is_number(self) -> bool:
        return bool(self.values) and all(re.fullmatch(r"[+-]?\d+(?:[.,]\d+)?", value) for value in self.values)

    @property
    def is_id(self) -> bool:
        """A name for the row: called so, or numbers or single words that are different in (nearly) every row."""
        if _ID_NAME.fullmatch(self.path[-1]):
            return True
        words = any(re.search(r"\s", value) for value in self.values)
        return not words and self.length < 40 and self.rows >= 10 and self.distinct > 0.9 * self.rows

    @property
    def can_be_labels(self) -> bool:
        """Whether few short values come again and again."""
        if not self.values or self.is_date or self.lists or self.distinct < 2:
            return False
        few = self.distinct <= min(_MOST_LABELS, max(2, self.rows / _ROWS_PER_LABEL))
        decimal = self.is_number and any(re.search(r"[.,]\d*[1-9]", value) for value in self.values)
        return (
            few
            and not decimal
            and max(map(len, self.values)) <= _LABEL_LENGTH
            and not _ID_NAME.fullmatch(self.path[-1])
        )

    @property
    def is_text(self) -> bool:
        """Whether it can be read in most rows: words, not an id, a date, a number or the same everywhere."""
        is_there = self.distinct > 1 and len(self.values) >= 0.7 * self.rows
        return is_there and not (self.is_id or self.is_date or self.is_number or self.lists)


def columns_of(rows: Sequence[Row]) -> dict[str, Column]:
    """The columns of a table, in order; those that hold objects as their parts, such as `translation.en`."""
    cells: dict[tuple[str, ...], list[Any]] = {}
    for _, row in rows:
        for path, value in _parts(row):
            cells.setdefault(path, []).append(value)
    columns = [_column(path, values, len(rows)) for path, values in cells.items()]
    return {column.name: column for column in columns}


def _parts(value: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, part in value.items():
        if isinstance(part, dict) and part:
            yield from _parts(part, (*path, key))
        else:
            yield (*path, key), part


def _column(path: tuple[str, ...], cells: Sequence[Any], rows: int) -> Column:
    lists = [cell for cell in cells if isinstance(cell, list)]
    return Column(path, _texts(cells), len(lists), _texts([cell[0] for cell in lists if cell]), rows)


def _texts(cells: Sequence[Any]) -> list[str]:
    """Those that are texts, without whitespace at their ends."""
    texts = [text_of(cell) for cell in cells]
    return [text.strip() for text in texts if text is not None and text.strip()]
