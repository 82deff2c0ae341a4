"""A run's directory, `runs/<name>/`:

    recipe.yaml      the resolved recipe
    manifest.json    format, versions, seed, fingerprints of base model and data
    metrics.jsonl    loss, learning rate and gradient norm of every logged step
    records/         one JSON Lines file an evaluation: base, then each stage
    summary.json     the figures of each evaluation
    adapter/         the adapters (heft.adapter_dir)

It is made only once everything has been checked, so bad input leaves nothing behind.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from heft.errors import HeftError
from heft.evaluation.metrics import Metrics
from heft.evaluation.records import Record, write_records

RUN_FORMAT = 1
"""Number of the format of a run's files, in manifest.json; it rises when a reader of the old ones would misread."""


@dataclass(frozen=True)
class StageSummary:
    """The model after a stage, or the base.

    Attributes:
        name: "base" or the stage's name.
        accuracy, interval, n, balanced_accuracy, majority, predictions: see heft.evaluation.metrics.Metrics.
        trainable_parameters: what this stage trained; 0 for the base.
        seconds: of training; 0 for the base.
        evaluation_seconds: of the evaluation.
        steps: optimiser steps taken; like `tokens` and the FLOPs 0 where nothing was trained.
        tokens: real tokens of the rows trained on, prompts and answers, computed or reused.
        flops: of training, as it ran: heft.costs.stage counts the products of the stage's passes from shapes, with the
            kind of reuse and the store that the run had, and the passes from `tokens`. The evaluation is not in it.
            None where the model cannot be counted.
        plain_flops: the same with every token computed in every layer at every step.
        stored_parameters: numbers that the adapter directory keeps of this stage and all before it.
        peak_bytes: peak memory of the training (heft.training.peak); None where unknown, and for the base.
        ended: "planned", with all its steps, or "plateau", before them; None for the base.
        ended_because: the same in a sentence, with the figures.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    n: int
    balanced_accuracy: float | None
    majority: float | None
    predictions: dict[str, float] | None
    trainable_parameters: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    steps: int = 0
    tokens: int = 0
    flops: float | None = 0.0
    plain_flops: float | None = 0.0
    stored_parameters: int = 0
    peak_bytes: int | None = None
    ended: str | None = None
    ended_because: str | None = None

    @classmethod
    def of(cls, name: str, metrics: Metrics, **rest) -> "StageSummary":
        """From an evaluation's figures and what else is known."""
        return cls(name=name, **asdict(metrics), **rest)


@dataclass
class RunDirectory:
    """Writes a run's files; each is whole or absent, but for metrics.jsonl, which grows."""

    path: Path
    summaries: list[StageSummary] = field(default_factory=list)

    def create(self, recipe_yaml: str, manifest: dict) -> None:
        """Make the directory, with what is known before the run.

        Raises:
            HeftError: it holds something already.
        """
        require_free(self.path)
        (self.path / "records").mkdir(parents=True)
        write_text(self.path / "recipe.yaml", recipe_yaml)
        write_text(self.path / "manifest.json", to_json(manifest))

    def add_metrics(self, values: dict) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def add_evaluation(self, summary: StageSummary, records: list[Record]) -> None:
        """Write an evaluation's records, and its figures into summary.json."""
        write_records(self.path / "records" / f"{summary.name}.jsonl", records)
        self.summaries.append(summary)
        write_text(self.path / "summary.json", to_json({"stages": [asdict(s) for s in self.summaries]}))

    @property
    def adapter(self) -> Path:
        """Where the adapter directory goes."""
        return self.path / "adapter"


def require_free(path: Path) -> None:
    """See that a run may be written there.

    Raises:
        HeftError: the path is a file, or a directory that is not empty.
    """
    if path.is_file():
        raise HeftError(f"output {path} is a file; give a directory that does not exist yet (--output DIR)")
    if path.is_dir() and any(path.iterdir()):
        holds = "already holds a run" if (path / "recipe.yaml").is_file() else "is not empty"
        raise HeftError(f"output {path} {holds}; give another with --output DIR, or remove it")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def to_json(value: dict) -> str:
    """JSON for people: indented, without NaN."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
