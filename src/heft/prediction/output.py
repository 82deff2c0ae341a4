"""Predictions as rows, and as files: JSON Lines, CSV, TSV, Parquet."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

from heft.errors import HeftError
from heft.prediction.predict import Predictions
from heft.prediction.prediction import columns_of
from heft.storage.atomic import atomic_path, atomic_write, finite
from heft.storage.targets import make_folder_of, require_new_file
from heft.tasks.table import Row, is_file_of
from heft.text.escape import escape_controls


def output_rows(predictions: Predictions) -> list[dict[str, Any]]:
    """Each row's own columns, and behind them what was predicted (heft.prediction.prediction.columns_of), null in a row
    that could not be used."""
    columns = columns_of(predictions.task, [answer.labels for answer in predictions.answers if answer is not None])
    return [
        {**row, **{name: None if answer is None else value(answer) for name, value in columns.items()}}
        for (_, row), answer in zip(predictions.rows, predictions.answers, strict=True)
    ]


def require_writable(output: Path, rows: Sequence[Row]) -> None:
    """Require that the format of a file's suffix can hold the columns of rows, before they are answered.

    Raises:
        HeftError: it cannot.
    """
    if output.suffix.lower() == ".parquet":
        _as_parquet(output, [row for _, row in rows])


def require_place(output: Path, source: str | Path | None = None) -> None:
    """Require that predictions can be written to a file, before they are made.

    Raises:
        HeftError: its suffix stands for no format, it is a folder or the file of the rows, or nothing can be written
            there.
    """
    if output.suffix.lower() not in FORMATS:
        raise HeftError(f"--output {output}: the format follows from the suffix; expected one of {', '.join(FORMATS)}")
    require_new_file(output, "predictions")
    if source is not None and is_file_of(source, output):
        raise HeftError(f"--output {output} is the file that the rows are in; give another")


def write_rows(output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows in the format of the file's suffix, whole or not at all.

    Raises:
        HeftError: the suffix stands for no format, values of a column do not go together, or nothing can be written
            there.
    """
    make_folder_of(output)
    FORMATS[output.suffix.lower()](output, rows)


def print_lines(rows: Sequence[Mapping[str, Any]], file: TextIO) -> None:
    """Rows as JSON Lines, with no character that a terminal obeys; null for NaN and infinities, which JSON lacks."""
    for row in rows:
        file.write(escape_controls(json.dumps(finite(row), ensure_ascii=False, default=str)) + "\n")


def _write_lines(output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_write(output) as file:
        print_lines(rows, file)


def _write_csv(output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    _write_separated(output, rows, ",")


def _write_tsv(output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    _write_separated(output, rows, "\t")


def _write_separated(output: Path, rows: Sequence[Mapping[str, Any]], delimiter: str) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(output) as file:
        # with this end of a line csv quotes a carriage return alone too, at which other programs would end the row
        lines = SimpleNamespace(write=lambda line: file.write(line.removesuffix("\r\n") + "\n"))
        writer = csv.DictWriter(lines, names, restval="", delimiter=delimiter, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    """A value as it stands in a table: lists and objects as JSON, nothing for null."""
    value = finite(value)
    if isinstance(value, bool | list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "" if value is None else value


def _write_parquet(output: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    content = _as_parquet(output, rows)
    with atomic_path(output) as partial:
        partial.write_bytes(content)


def _as_parquet(output: Path, rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    content = io.BytesIO()
    try:
        columns = {name: pyarrow.array([row.get(name) for row in rows]) for name in names}
        parquet.write_table(pyarrow.table(columns), content)
    except (pyarrow.ArrowException, OverflowError) as error:
        raise HeftError(
            f"{output}: Parquet cannot hold a column whose values are of several types, too large, or objects without"
            f" keys ({error}); write .jsonl"
        ) from None
    return content.getvalue()


FORMATS: dict[str, Callable[[Path, Sequence[Mapping[str, Any]]], None]] = {
    ".jsonl": _write_lines,
    ".csv": _write_csv,
    ".tsv": _write_tsv,
    ".parquet": _write_parquet,
}
"""How a file is written, by its suffix."""
