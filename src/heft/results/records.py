"""A record: one evaluated example. Written as JSON Lines, read back strictly."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from heft.errors import HeftError
from heft.storage.atomic import atomic_write
from heft.storage.reading import is_file, kind_of, parse_json, read_lines

_KINDS: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "gold": (int, str),
    "prediction": (int, str, NoneType),
    "correct": (bool,),
    "log_likelihoods": (list,),
    "group": (str, NoneType),
    "text": (str, NoneType),
    "prompt": (str,),
}
_WORDS = {"id": "text", "prompt": "text", "correct": "true or false", "log_likelihoods": "a list of numbers"}
_WORDS |= {"gold": "an index or text", "prediction": "an index, text or null"}
_WORDS |= {"group": "text or null", "text": "text or null"}
_REQUIRED = {"id", "gold", "prediction", "correct"}
_MOST_CHOICES = 2**20
_MOST_FAULTS = 10


@dataclass(frozen=True)
class Record:
    """One evaluated example.

    Attributes:
        id: from the example's content.
        gold: index of the right choice, or the reference answer.
        prediction: index of the likeliest choice, or the answer found in the generated text (None: none found).
        correct: whether the prediction is right.
        log_likelihoods: ln p of each choice as it was compared (normalised or not); empty for generated answers.
        group: equal for examples that share a text; None where nothing is shared.
        text: the generated text; None for choices.
        prompt: 8 hex digits that stand for what the model was shown (heft.data.encode.EncodedExample.fingerprint).
    """

    id: str
    gold: int | str
    prediction: int | str | None
    correct: bool
    log_likelihoods: tuple[float, ...] = ()
    group: str | None = None
    text: str | None = None
    prompt: str = ""


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write one JSON object a line, whole or not at all."""
    with atomic_write(path) as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False, allow_nan=False) + "\n")


def read_records(path: Path) -> list[Record]:
    """Read records, strictly.

    Raises:
        HeftError: the file is missing, too large or empty, or a line is not a record; the line is named.
    """
    if not is_file(path):
        raise HeftError(f"{path}: no such file of records")
    records = []
    for number, line in read_lines(path):
        try:
            records.append(_record(parse_json(line)))
        except ValueError as error:
            raise HeftError(f"{path}:{number}: not a record: {error}") from None
    if not records:
        raise HeftError(f"{path} holds no records")
    return records


def _record(row: Any) -> Record:
    """A record from a line's value; every fault is a ValueError with a message for people."""
    if not isinstance(row, dict):
        raise ValueError(f"{kind_of(row)} where an object {{…}} was expected")
    unknown, missing = row.keys() - _KINDS.keys(), _REQUIRED - row.keys()
    if unknown or missing:
        found = [f"{key} is missing" for key in sorted(missing)] + [f"unknown key {key[:60]!r}" for key in unknown]
        raise ValueError("; ".join(found[:_MOST_FAULTS]))
    for key, value in row.items():
        if type(value) not in _KINDS[key]:  # not isinstance, for which true is a number
            raise ValueError(f"{key} must be {_WORDS[key]}; got {kind_of(value)}")
    if not all(type(number) in (int, float) for number in row.get("log_likelihoods", ())):
        raise ValueError("log_likelihoods must be finite numbers")
    _require_choices(row)
    return Record(**{**row, "log_likelihoods": tuple(map(float, row.get("log_likelihoods", ())))})


def _require_choices(row: dict) -> None:
    """Require that predicted and gold choices exist, and that `correct` says whether they are equal."""
    choices = len(row.get("log_likelihoods", ())) or _MOST_CHOICES
    for key in ("gold", "prediction"):
        is_index = isinstance(row[key], int)
        if is_index and not 0 <= row[key] < choices:
            raise ValueError(f"{key} must be the index of a choice, 0 to {choices - 1}; got {row[key]}")
        if row.get("log_likelihoods") and not is_index:
            raise ValueError(f"{key} must be the index of a choice, since there are log_likelihoods; got text or null")
    if row.get("log_likelihoods") and row["correct"] != (row["prediction"] == row["gold"]):
        said = "correct" if row["correct"] else "not correct"
        raise ValueError(f"it is said to be {said}, with prediction {row['prediction']} and gold {row['gold']}")
