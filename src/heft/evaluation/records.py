"""A record: one evaluated example. Written as JSON Lines, read back strictly."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from heft.errors import HeftError


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
        prompt: 8 hex digits that stand for what the model was shown (heft.data.EncodedExample.fingerprint).
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
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(asdict(record), ensure_ascii=False, allow_nan=False) + "\n")
    os.replace(partial, path)


def read_records(path: Path) -> list[Record]:
    """Read records.

    Raises:
        HeftError: the file is missing, empty, or a line is not a record; the line is named.
    """
    if not path.is_file():
        raise HeftError(f"{path}: no such file of records")
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            records.append(_record(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise HeftError(f"{path}:{number}: not a record: {error}") from None
    if not records:
        raise HeftError(f"{path} holds no records")
    return records


def _record(row: dict) -> Record:
    record = Record(**{**row, "log_likelihoods": tuple(row.get("log_likelihoods", ()))})
    if not isinstance(record.id, str) or not isinstance(record.correct, bool) or not isinstance(record.prompt, str):
        raise TypeError("id and prompt must be text and correct true or false")
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in record.log_likelihoods):
        raise TypeError("log_likelihoods must be finite numbers")
    return record
