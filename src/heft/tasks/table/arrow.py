"""Tables of pyarrow, `datasets` and pandas as rows, in plain values of Python."""

import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heft.errors import HeftError
from heft.storage.reading import FileFault
from heft.tasks.table.faults import Row, require_distinct

if TYPE_CHECKING:
    import datasets
    import pandas
    import pyarrow


def parquet_rows(path: Path, content: bytes) -> list[Row]:
    """The rows of a Parquet file; a column that `datasets` wrote as labels has their names.

    Raises:
        HeftError: it is damaged, or names of columns are repeated.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        require_distinct(path, file.schema_arrow.names)
        table = file.read()
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        raise FileFault(path, f"it is no whole Parquet file ({error})") from None
    if b"huggingface" in (table.schema.metadata or {}):
        from datasets import Dataset

        return dataset_rows(Dataset(table), str(path))
    return _rows(_listed(table, str(path)), str(path))


def dataset_rows(dataset: "datasets.Dataset", where: str) -> list[Row]:
    """The rows of a data set of `datasets`; labels (`ClassLabel`, in lists and structs too) have their names.

    Images are not decoded.

    Raises:
        HeftError: there are none, a value cannot be read, or a function of a person's own is to be applied to them.
    """
    if dataset.format["type"] == "custom":
        raise HeftError(
            f"{where} has a transform (set_transform, with_transform), which heft does not apply; make its columns with"
            " map, or take it away with reset_format()"
        )
    table = dataset.with_format("arrow")[:]
    named = {name: find for name, feature in dataset.features.items() if (find := _label_names(feature))}
    rows = _listed(table, where)
    for row in rows:
        row.update({column: find(row[column]) for column, find in named.items()})
    return _rows(rows, where)


def _label_names(feature: Any) -> Callable[[Any], Any] | None:
    """What puts names in place of labels' numbers in a value of `datasets`, and None where there is none.

    None as a result: values of this kind hold no labels.
    """
    from datasets import ClassLabel, LargeList, List

    if isinstance(feature, ClassLabel):
        names = dict(enumerate(feature.names))
        return names.get
    if isinstance(feature, dict):
        found = {name: find for name, each in feature.items() if (find := _label_names(each))}

        def within(value: dict) -> dict:
            return value | {name: find(value[name]) for name, find in found.items()}

    elif isinstance(feature, List | LargeList):
        found = _label_names(feature.feature)

        def within(value: list) -> list:
            return [found(each) for each in value]

    else:
        return None
    return (lambda value: None if value is None else within(value)) if found else None


def frame_rows(frame: "pandas.DataFrame", where: str = "data frame") -> list[Row]:
    """The rows of a pandas DataFrame; places are its index, missing values are None.

    Raises:
        HeftError: names of columns are repeated or no text.
    """
    columns = list(frame.columns)
    if len(set(columns)) < len(columns) or not all(isinstance(column, str) for column in columns):
        raise HeftError(f"{where}: columns must have names, each once and of text; got {columns}")
    values = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [_row(f"{where} row {index}", row) for index, row in zip(frame.index, values, strict=True)]


def list_rows(rows: list[dict], where: str = "list") -> list[Row]:
    """Rows that are given as a list of dicts; places count from 0.

    Raises:
        HeftError: an entry is no dict, or a key is no text.
    """
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(isinstance(key, str) for key in row):
            raise HeftError(f"{where} row {number}: expected a dict of columns; got {type(row).__name__} {row!r:.60}")
    return _rows(rows, where)


def _listed(table: "pyarrow.Table", where: str) -> list[dict]:
    try:
        return table.to_pylist()
    except (ValueError, OverflowError) as error:  # such as a date behind the year 9999, which Python does not have
        raise HeftError(f"{where} has a value that Python cannot hold ({error}); leave its column out") from None


def _rows(rows: list[dict], where: str) -> list[Row]:
    if not rows:
        raise HeftError(f"{where} has no rows")
    return [_row(f"{where} row {number}", row) for number, row in enumerate(rows)]


def _row(place: str, row: dict) -> Row:
    try:
        return place, _plain(row)
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise HeftError(
            f"{place}: a text has {half!a}, half of a surrogate pair, which is no character: such as text that was cut"
            " within an emoji; mend or remove the row"
        ) from None


def _plain(value: Any) -> Any:
    """A value as JSON has it: dates as ISO 8601, decimals as text, numpy's scalars and arrays as Python's.

    Raises:
        UnicodeEncodeError: a text is none in Unicode.
    """
    if _is_missing(value):
        return None
    if isinstance(value, str):
        value.encode("utf-8")
    if isinstance(value, str | bool | int | float):
        return value.item() if hasattr(value, "item") else value
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    if hasattr(value, "tolist"):  # numpy
        return _plain(value.tolist())
    return value if isinstance(value, bytes) else str(value)


def _is_missing(value: Any) -> bool:
    """Whether it is None, or one of the values by which pandas says that there is none; NaN is one of them."""
    pandas = sys.modules.get("pandas")
    if value is None or (isinstance(value, float) and value != value):
        return True
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)
