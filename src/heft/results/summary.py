"""summary.json of a run: the figures of the base, then of the model after each stage."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from heft.errors import HeftError
from heft.results.metrics import Metrics
from heft.results.records import read_records
from heft.settings.words import checked
from heft.storage.atomic import to_json, write_text
from heft.storage.reading import read_json

_FILE = "summary.json"
_MOST = 1e30  # of a count or a cost: sums and means of these stay finite


def _stage_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]{1,100}", value):
        raise ValueError("a stage's name is at most 100 letters, digits and _, since it names a file too")
    return value


Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=_MOST)]
Count = Annotated[int, Field(ge=0, le=2**53)]


class StageSummary(BaseModel):
    """The model after a stage, or the base."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    name: Annotated[str, AfterValidator(_stage_name)]
    """"base" or the stage's name."""
    accuracy: Share
    """Share of the evaluation examples answered rightly. (This and the next eight: heft.results.metrics.Metrics.)"""
    interval: Annotated[tuple[float, float], Field(strict=False)]
    """Its 95 % interval."""
    n: Annotated[int, Field(ge=1)]
    """Evaluation examples."""
    balanced_accuracy: Share | None
    """Mean recall over classes; None for generated answers."""
    majority: Share | None
    """Share of the commonest right answer; None for generated answers."""
    predictions: dict[str, Share] | None
    """How often each choice was predicted, as a share; None for generated answers."""
    loss: Amount | None = None
    """Cross-entropy of a token of the reference answers (nats); None where choices are scored."""
    rouge_l: Share | None = None
    """Mean ROUGE-L of generated texts; None where choices are scored, or only a part of a text is compared."""
    chrf: Share | None = None
    """chrF of generated texts, likewise."""
    trainable_parameters: Count = 0
    """What this stage trained; 0 for the base."""
    seconds: Amount = 0.0
    """Of training; 0 for the base. Like `tokens` and the FLOPs also 0 for a sweep's winner, which was trained side by
    side with others."""
    evaluation_seconds: Amount = 0.0
    """Of the evaluation."""
    steps: Count = 0
    """Optimiser steps taken; like `tokens` and the FLOPs 0 where nothing was trained."""
    tokens: Count = 0
    """Real tokens of the rows trained on, prompts and answers, computed or cached."""
    flops: Amount | None = 0.0
    """Of training, as it ran: heft.costs.stage counts the products of the stage's passes from shapes, with the kind of
    reuse and the store that the run had, and the passes from `tokens`. The evaluation is not in it. None where the
    model cannot be counted."""
    plain_flops: Amount | None = 0.0
    """The same with every token computed in every layer at every step."""
    stored_parameters: Count = 0
    """Numbers that the adapter directory has of this stage and all before it."""
    peak_bytes: Count | None = None
    """Peak memory of the training (heft.training.peak); None where unknown, and for the base."""
    ended: str | None = None
    """"planned", with all its steps, "early_stopping", before them, or "frozen", where an adapter is taken as it is;
    None for the base."""
    ended_because: str | None = None
    """The same in a sentence, with the figures."""
    labels: list[str] | None = None
    """What the choices stand for, by their index, where all rows have the same; else None."""

    @classmethod
    def of(cls, name: str, metrics: Metrics, **rest) -> "StageSummary":
        """From an evaluation's figures and what else is known."""
        return cls(name=name, **asdict(metrics), **rest)

    def agrees_with(self, records: Path) -> bool:
        """Whether a file of records is there and can be what the figures were computed from."""
        try:
            found = read_records(records)
        except HeftError:
            return False
        return len(found) == self.n and sum(r.correct for r in found) == round(self.accuracy * self.n)


class _Summary(BaseModel):
    stages: list[StageSummary]


def write_summaries(directory: Path, summaries: Sequence[StageSummary]) -> None:
    """Write a run's summary.json.

    Raises:
        HeftError: it cannot be written.
    """
    write_text(directory / _FILE, to_json({"stages": [summary.model_dump(mode="json") for summary in summaries]}))


def read_summaries(directory: Path) -> list[StageSummary]:
    """What summary.json of a run says; nothing where there is none yet.

    Raises:
        HeftError: it cannot be read.
    """
    file = directory / _FILE
    if not file.exists():
        return []
    return checked(file, read_json(file), _Summary).stages
