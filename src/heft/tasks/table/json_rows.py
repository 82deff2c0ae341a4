"""JSON Lines, and JSON files that hold one list, as rows."""

from collections.abc import Iterator
from pathlib import Path

from heft.errors import HeftError
from heft.storage.reading import LINE_LIMIT, FileFault, kind_of, lines_of_object, parse_json, parse_json_list
from heft.tasks.table.faults import Row, fault_report
from heft.tasks.table.files import read_file, utf8

CHAT_KEYS = frozenset(("messages", "conversations", "conversation"))
"""Keys of a row that holds one chat, whose turns are no rows."""


def read_json_lines(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON Lines file: one per line, counted from 1; blank lines are skipped.

    Lines and file are bounded (heft.storage.reading).

    Raises:
        HeftError: the file is missing or has no rows, or lines of it are not JSON or not objects; all unreadable lines
            are reported together, before the first row.
    """
    yield from json_lines(path, utf8(path, read_file(path)))


def json_rows(path: Path, content: bytes, is_lines: bool) -> list[Row]:
    """The rows of JSON, of whichever kind: one list, an object that holds one list of objects, or JSON Lines.

    `is_lines` is whether the file's name says that it is JSON Lines; one object in it is then a row.

    Raises:
        HeftError: it is none of them.
    """
    if content.lstrip()[:1] == b"[" or not (is_lines or _first_line_is_a_row(content)):
        try:
            entries = parse_json_list(content, CHAT_KEYS)
        except ValueError as error:
            _refuse_over_lines(path, content, content[: len(content) - len(content.lstrip())].count(b"\n") + 1)
            raise FileFault(path, str(error)) from None
        if entries is not None:
            return _entries(path, entries)
        _refuse_columns(path, content)
    return json_lines(path, content)


def _refuse_columns(path: Path, content: bytes) -> None:
    """Refuse an object of columns, each an object of cells by the same keys, as pandas writes a table.

    Raises:
        HeftError: the JSON is one.
    """
    value = parse_json(content, finite=False)
    columns = list(value.values()) if isinstance(value, dict) else []
    are_alike = all(isinstance(each, dict) and each.keys() == columns[0].keys() for each in columns)
    if len(columns) > 1 and are_alike and all(map(str.isdecimal, columns[0])):
        raise HeftError(
            f"{path} holds one object for each column, {', '.join(list(value)[:5])}, as pandas' to_json writes a table;"
            " expected rows: to_json(path, orient='records', lines=True)"
        )


def json_lines(path: Path, content: bytes) -> list[Row]:
    """The rows of JSON Lines in UTF-8."""
    rows, faults, at = [], [], 0
    for number, line in enumerate(content.split(b"\n"), start=1):
        start, at = at, at + len(line) + 1
        if not line.strip():
            continue
        if len(line) > LINE_LIMIT:
            raise FileFault(path, f"line {number} is longer than {LINE_LIMIT:,} bytes")
        try:
            rows.append((f"{path}:{number}", _object(parse_json(line, finite=False))))
        except ValueError as error:
            if not faults:
                _refuse_over_lines(path, content[start:], number)
            faults.append(f"{path}:{number}: {error}")
    if faults:
        raise fault_report(f"{path}: expected one JSON object per line; unreadable lines: {len(faults):,}", faults)
    if not rows:
        raise HeftError(f"{path} has no rows; expected one JSON object per line")
    return rows


def _refuse_over_lines(path: Path, content: bytes, line: int) -> None:
    """Refuse an object of several lines, of each of which there would be a fault; `line` is where the text begins.

    Raises:
        HeftError: the text begins with one.
    """
    lines = lines_of_object(content)
    if lines is not None and lines > 1:
        raise HeftError(
            f"{path}:{line}: the object that begins here ends on line {line + lines - 1}; expected one JSON object per"
            " line, as `jq -c .` writes them, or one list of objects, [{…}, {…}]"
        )


def _first_line_is_a_row(content: bytes) -> bool:
    """Whether the first line is an object by itself, and there are more, so that the whole is no JSON."""
    first, _, rest = content.strip().partition(b"\n")
    try:
        return bool(rest.strip()) and isinstance(parse_json(first, finite=False), dict)
    except ValueError:
        return False


def _entries(path: Path, entries: list[tuple[int, object]]) -> list[Row]:
    faults, rows = [], []
    for line, entry in entries:
        try:
            rows.append((f"{path}:{line}", _object(entry)))
        except ValueError as error:
            faults.append(f"{path}:{line}: {error}")
    if faults:
        raise fault_report(f"{path}: expected a list of JSON objects; other entries: {len(faults):,}", faults)
    if not rows:
        raise HeftError(f"{path} has no rows; expected a list of JSON objects")
    return rows


def _object(value: object) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{kind_of(value)} where an object {{…}} was expected")
    return value
