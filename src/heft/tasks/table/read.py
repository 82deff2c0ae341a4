"""`read_table`: rows from wherever a person has them."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from heft.errors import HeftError
from heft.storage.reading import FileFault, absolute_path, is_dir, is_file
from heft.tasks.table.arrow import dataset_rows, frame_rows, list_rows, parquet_rows
from heft.tasks.table.delimited import delimited_rows
from heft.tasks.table.faults import Row
from heft.tasks.table.files import is_data_file, read_file, require_encoding, user_path, utf8
from heft.tasks.table.json_rows import json_rows

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(?::[\w.-]+)?")
_EXPECTED = "JSON Lines, a JSON list, CSV, TSV or Parquet, or an id on the Hub such as owner/name"


def read_table(
    source: Any, *, folder: Path | None = None, split: str | None = None, encoding: str | None = None
) -> list[Row]:
    """Every row of a source, in its order, with its place.

    Args:
        source: the path of a file (JSON Lines, JSON list, CSV, TSV, Parquet; also compressed with gzip), a data set on
            the Hub (`owner/name`, `owner/name:config`), a folder that `datasets` saved one in, or rows in memory: a
            `datasets.Dataset` or `DatasetDict`, a pandas DataFrame, a list of dicts.
        folder: what a relative path counts from; None for the working directory.
        split: of a data set that has several; None takes the only one, else `train`. A table has none.
        encoding: of a text file that is not in Unicode, such as cp1252.

    Returns:
        Places and rows. A place is `path:line`, the file's own line, where it has lines, else `name row 3`, counted
        from 0. Cells of CSV are text as it stands in the file.

    Raises:
        HeftError: it cannot be read, has no rows or no such split, or is of no kind that is known here.
    """
    if isinstance(source, str | Path):
        path = locate(source, folder)
        _require_encoding(encoding)
        rows = _hub_rows(str(source), split) if path is None else _file_rows(path, split, encoding)
    else:
        rows = _rows_in_memory(source, split)
    if not rows:
        raise HeftError(f"{source if isinstance(source, str | Path) else 'the table'} has no rows")
    return rows


def locate(source: str | Path, folder: Path | None = None) -> Path | None:
    """The path that a source names; None where it is a data set on the Hub."""
    path = user_path(str(source), folder)
    return None if isinstance(source, str) and is_hub_id(source) and not _exists(path) else path


def is_file_of(source: str | Path, path: Path) -> bool:
    """Whether a source is the file at a path, by whatever name, so that to write there would be to write over it."""
    there = locate(source)
    return there is not None and os.path.exists(there) and os.path.exists(path) and os.path.samefile(there, path)


def absolute(source: str, folder: Path | None = None) -> str:
    """A source whose path, where it names one, is absolute; the id of a data set on the Hub as it is."""
    path = locate(source, folder) if source else None
    return source if path is None else absolute_path(path).as_posix()


def is_hub_id(source: str) -> bool:
    """Whether a text can be the id of a data set on the Hub, and is no name of a file of rows."""
    return _HUB_ID.fullmatch(source) is not None and not is_data_file(source)


def splits_of(source: Any, folder: Path | None = None) -> list[str]:
    """The names of a source's splits; none where it has no such names.

    Raises:
        HeftError: it cannot be opened.
    """
    if isinstance(source, str | Path):
        path = locate(source, folder)
        if path is not None and not is_dir(path):
            return []
        source = _hub_dataset(str(source)) if path is None else _saved_dataset(path)
    return list(source) if _is_dataset_dict(source) else []


def _exists(path: Path) -> bool:
    return is_file(path) or is_dir(path)


def _require_encoding(name: str | None) -> None:
    try:
        if name is not None:
            require_encoding(name)
    except ValueError as error:
        raise HeftError(f"encoding: {error}") from None


def _file_rows(path: Path, split: str | None, encoding: str | None) -> list[Row]:
    if is_dir(path):
        return _rows_in_memory(_saved_dataset(path), split, str(path))
    _refuse_split(split, str(path))
    content = read_file(path)
    if content.startswith(b"PAR1"):
        return parquet_rows(path, content)
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    text = utf8(path, content, encoding)
    start = text.lstrip()[:1]
    if not start:
        raise HeftError(f"{path} is empty; expected {_EXPECTED}")
    if suffix in (".tsv", ".tab"):
        return delimited_rows(path, text, "\t")
    if suffix == ".csv":
        return delimited_rows(path, text)
    if start in (b"{", b"[") or suffix in (".jsonl", ".ndjson", ".json"):
        return json_rows(path, text, is_lines=suffix in (".jsonl", ".ndjson"))
    if suffix == ".parquet":
        raise FileFault(path, "it is no Parquet file")
    rows = delimited_rows(path, text)
    if len(rows[0][1]) < 2:
        raise HeftError(f"{path} is text without columns; expected {_EXPECTED}")
    return rows


def _saved_dataset(path: Path) -> Any:
    if not any(is_file(path / name) for name in ("dataset_dict.json", "dataset_info.json", "state.json")):
        names = ", ".join(sorted(file.name for file in path.iterdir() if is_data_file(file.name))[:10])
        raise HeftError(f"{path} is a folder; give one of its files{': ' + names if names else ''}")
    from datasets import load_from_disk

    try:
        return load_from_disk(str(path))
    except Exception as error:  # every kind of damage has the same way out
        raise HeftError(f"{path} cannot be read as a saved data set: {_first_line(error)}") from error


def _hub_dataset(name: str) -> Any:
    from datasets import load_dataset  # here because it takes a second to import

    path, _, config = name.partition(":")
    try:
        return load_dataset(path, config or None)
    except Exception as error:  # every kind of failure (offline, gated, renamed, full disk) has the same way out
        raise HeftError(
            f"{name} is no file here, and cannot be opened as a data set on the Hugging Face Hub"
            f" ({type(error).__name__}: {_first_line(error)}). Check the spelling, the network, and `hf auth login`"
            " where the data set asks for it; one with several configurations is named as owner/name:config"
        ) from error


def _hub_rows(name: str, split: str | None) -> list[Row]:
    return _rows_in_memory(_hub_dataset(name), split, name)


def _rows_in_memory(source: Any, split: str | None, where: str | None = None) -> list[Row]:
    if _is_dataset_dict(source):
        chosen = _split_of(list(source), split, where or "the data set")
        return dataset_rows(source[chosen], f"{where or 'data set'}[{chosen}]")
    if _is_a(source, "datasets", "Dataset"):
        if split != source.split:
            _refuse_split(split, where or "the data set")
        return dataset_rows(source, where or "data set")
    if _is_a(source, "pandas", "DataFrame"):
        _refuse_split(split, "a data frame")
        return frame_rows(source)
    if isinstance(source, list | tuple):
        _refuse_split(split, "a list")
        return list_rows(list(source))
    module = type(source).__module__.partition(".")[0]
    kind = type(source).__name__ if module == "builtins" else f"{type(source).__name__} of {module}"
    raise HeftError(
        f"rows cannot be read from {kind}; expected the path of a file, an id on the Hub, a"
        " datasets.Dataset, a pandas DataFrame or a list of dicts"
    )


def _split_of(names: list[str], split: str | None, where: str) -> str:
    if split is None:
        split = names[0] if len(names) == 1 else "train"
    if split not in names:
        raise HeftError(f"{where} has no split {split!r}; it has {', '.join(names)}")
    return split


def _refuse_split(split: str | None, where: str) -> None:
    """Refuse a split of one table, all of whose rows would be taken for it.

    Raises:
        HeftError: one is asked for.
    """
    if split is not None:
        raise HeftError(
            f"{where} is one table, which has no split {split!r}; leave the split out, or give a data set that has it"
            " or the table of those rows"
        )


def _is_dataset_dict(source: Any) -> bool:
    return _is_a(source, "datasets", "DatasetDict")


def _is_a(value: Any, module: str, name: str) -> bool:
    """Whether a value is of a class of a package, which need not be imported to know that it is not."""
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name, ()))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
