"""A record: one evaluated example. Written as JSON Lines, read back strictly."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from heft.errors import HeftError
from heft.settings.words import faults_of, in_one_line
from heft.storage.atomic import atomic_write
from heft.storage.reading import is_file, kind_of, parse_json, read_lines

_MOST_CHOICES = 2**20


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
        cut: whether a generated text reached the limit of tokens before an end.
        loss: mean cross-entropy of the reference answer's tokens (nats) where answers are generated; None elsewhere.
        prompt: 8 hex digits that stand for what the model was shown (heft.data.encode.EncodedExample.fingerprint).
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    id: str
    gold: int | str
    prediction: int | str | None
    correct: bool
    log_likelihoods: tuple[float, ...] = ()
    group: str | None = None
    text: str | None = None
    cut: bool = False
    loss: float | None = None
    prompt: str = ""


_READER = TypeAdapter(Record)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write one JSON object per line, whole or not at all."""
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
            records.append(_record(line))
        except ValueError as error:
            raise HeftError(f"{path}:{number}: not a record: {error}") from None
    if not records:
        raise HeftError(f"{path} holds no records")
    return records


def _record(line: bytes) -> Record:
    """A record from a line; every fault is a ValueError with a message for people."""
    if not isinstance(row := parse_json(line), dict):  # stricter than pydantic: no key twice, no half of a surrogate
        raise ValueError(f"{kind_of(row)} where an object {{…}} was expected")
    try:
        record = _READER.validate_json(line)
    except ValidationError as error:
        raise ValueError(in_one_line(faults_of(error, Record))) from None
    _require_choices(record)
    return record


def _require_choices(record: Record) -> None:
    """Check that indices are those of choices, and that `correct` follows from them."""
    choices = len(record.log_likelihoods)
    for key in ("gold", "prediction"):
        value = getattr(record, key)
        if isinstance(value, int) and not 0 <= value < (choices or _MOST_CHOICES):
            raise ValueError(f"{key} must be the index of a choice, 0 to {(choices or _MOST_CHOICES) - 1}; got {value}")
        if choices and not isinstance(value, int):
            raise ValueError(f"{key} must be the index of a choice, since there are log_likelihoods; got text or null")
    if choices and record.correct != (record.prediction == record.gold):
        raise ValueError(f"correct is {record.correct}, with prediction {record.prediction} and gold {record.gold}")
