"""CSV and its kin as rows: every cell is the text that the file has, an empty one is empty text."""

import csv
import io
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from heft.errors import HeftError
from heft.storage.reading import LINE_LIMIT, FileFault
from heft.tasks.table.faults import Row, faults_by_cause, require_distinct

_DELIMITERS = (",", "\t", ";", "|")
_TOLD = re.compile(r'("?sep=(.)"?)(?=[\r\n])', re.IGNORECASE)
"""The first line, where Excel is told the delimiter there."""
_SEEN = 100
"""Records from whose number of cells the delimiter is known."""


def delimited_rows(path: Path, content: bytes, delimiter: str | None = None) -> list[Row]:
    """The rows of a CSV file in UTF-8, whose first record has the names of the columns.

    Numbers stay text, so that 007 stays 007. A place is the line on which a row begins.

    Args:
        path: for places and messages.
        content: of the file.
        delimiter: between cells; None for the one of `, ; |` and tab with which records have the most columns. A first
            line such as `sep=;`, which Excel reads, says it instead.

    Raises:
        HeftError: there are no rows, quotes do not close, names of columns are repeated, or rows have more or fewer
            cells than there are names; all such rows are counted.
    """
    text = content.decode("utf-8")
    if told := _TOLD.match(text):
        text, delimiter = text[told.end(1) :], told[2]
    delimiter = delimiter or _delimiter(text)
    try:
        records = list(_records(text, delimiter))
    except csv.Error as error:
        raise FileFault(path, f"quotes do not close, or something stands behind them: {error}") from None
    if len(records) < 2:
        raise HeftError(f"{path} has no rows; expected a line with the names of the columns, and rows below it")
    columns = _columns(path, records[0][1])
    rows, faults = [], []
    for line, cells in records[1:]:
        while len(cells) > len(columns) and not cells[-1]:  # what spreadsheets leave at the end of a line
            cells.pop()
        if len(cells) == len(columns):
            rows.append((f"{path}:{line}", dict(zip(columns, cells, strict=True))))
        else:
            faults.append((f"{path}:{line}", f"{len(cells)} cells, where the header has {len(columns)}"))
    if faults:
        raise faults_by_cause(
            f"{path}: {len(faults):,} of {len(records) - 1:,} rows have not the {len(columns)} cells of the header,"
            f" {', '.join(columns)} (a cell that holds {_named(delimiter)} must stand in quotes):",
            faults,
        )
    return rows


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank, with the line on which each begins."""
    limit = csv.field_size_limit(LINE_LIMIT)
    try:
        reader, line = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"{error} (record that begins on line {line})") from None
    finally:
        csv.field_size_limit(limit)


def _delimiter(text: str) -> str:
    """The delimiter that gives the most records the header's number of cells, then the most cells.

    One with which quotes do not close comes after all others that divide the header. One that divides the header alone
    is part of a name.
    """

    def fit(delimiter: str) -> tuple[bool, int, int]:
        cells, is_whole = [], True
        try:
            cells.extend(len(record) for _, record in islice(_records(text, delimiter), _SEEN))
        except csv.Error:
            is_whole = False
        if not cells or cells[0] < 2 or (len(cells) > 1 and max(cells[1:]) < 2):
            return False, 0, 0
        return is_whole, sum(count == cells[0] for count in cells), cells[0]

    best = max(_DELIMITERS, key=fit)
    return best if any(fit(best)) else ","


def _columns(path: Path, names: list[str]) -> list[str]:
    """The names of the columns; one without a name is called as pandas does, which writes such a one for its index."""
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    columns = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    require_distinct(f"{path}, first line", columns)
    return columns


def _named(delimiter: str) -> str:
    return {",": "a comma", ";": "a semicolon", "\t": "a tab"}.get(delimiter, repr(delimiter))
