"""A run's directory, `runs/<name>/`:

    recipe.yaml      the resolved recipe
    manifest.json    format, versions, seed, fingerprints of base model and data
    metrics.jsonl    loss, learning rate and gradient norm of every logged step
    records/         one JSON Lines file an evaluation: base, then each stage
    summary.json     the figures of each evaluation
    adapter/         the adapters (heft.adapters.directory)

    checkpoints/     where a run that is not finished goes on (heft.run.checkpoints)

It is made only once everything has been checked, so bad input leaves nothing behind.
"""

import json
import os
import shlex
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from heft.errors import HeftError
from heft.evaluation.metrics import Metrics
from heft.evaluation.records import Record, read_records, write_records
from heft.recipe.files import difference, load_recipe, with_date_of
from heft.recipe.recipe import ModelSettings, Recipe
from heft.storage.atomic import append_line, readable_os_errors, to_json, write_text
from heft.storage.locks import LOCK_FILE, locked
from heft.storage.reading import is_dir, is_file, nearest_existing, read_json

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
        steps: optimizer steps taken; like `tokens` and the FLOPs 0 where nothing was trained.
        tokens: real tokens of the rows trained on, prompts and answers, computed or reused.
        flops: of training, as it ran: heft.costs.stage counts the products of the stage's passes from shapes, with the
            kind of reuse and the store that the run had, and the passes from `tokens`. The evaluation is not in it.
            None where the model cannot be counted.
        plain_flops: the same with every token computed in every layer at every step.
        stored_parameters: numbers that the adapter directory keeps of this stage and all before it.
        peak_bytes: peak memory of the training (heft.training.peak); None where unknown, and for the base.
        ended: "planned", with all its steps, or "early_stopping", before them; None for the base.
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
    """Writes a run's files; each is whole or absent, but for metrics.jsonl, which grows by whole lines."""

    path: Path
    summaries: list[StageSummary] = field(default_factory=list)

    def create(self, recipe_yaml: str, manifest: dict) -> None:
        """Make the directory, with what is known before the run.

        Raises:
            HeftError: it holds something already, or cannot be written.
        """
        require_free(self.path)
        try:
            with readable_os_errors(self.path):
                (self.path / "records").mkdir(parents=True)
            write_text(self.path / "recipe.yaml", recipe_yaml)
            write_text(self.path / "manifest.json", to_json(manifest))
        except BaseException:
            _remove_first_files(self.path)
            raise

    def go_on(self, manifest: dict) -> str:
        """Take up what an earlier call left: the figures of evaluations whose records are there and agree with them.

        Returns:
            what else it was begun with, in words, by which the result may differ in its last bits; empty if nothing.

        Raises:
            HeftError: the run was begun by a version of heft that writes other files, on another base model or other
                data, or something else is in its way.
        """
        there = read_json(self.path / "manifest.json")
        if there.get("format") != manifest["format"]:
            raise HeftError(
                f"{self.path} was begun by another version of heft (format {there.get('format')!r}, this one writes"
                f" {manifest['format']}); go on with that version, or give another directory with --output DIR"
            )
        if (self.path / "adapter").exists():
            raise HeftError(
                f"{self.path / 'adapter'} has no heft.json, without which it is not the run's; move it away, then go on"
            )
        for what in ("base", "data"):
            if there.get(what) != manifest[what]:
                raise HeftError(
                    f"{self.path} was begun with another {_WORDS[what]} ({there.get(what)}, now {manifest[what]}); what"
                    " it has cannot be gone on with: give another directory with --output DIR, or remove it"
                )
        with readable_os_errors(self.path / "records"):
            (self.path / "records").mkdir(exist_ok=True)
        for summary in read_summaries(self.path):
            if not agrees(summary, self.path / "records" / f"{summary.name}.jsonl"):
                break
            self.summaries.append(summary)
        was, now = _began_with(there), _began_with(manifest)
        return ", ".join(f"{key} {was.get(key)} (now {now[key]})" for key in now if was.get(key) != now[key])

    def forget_from(self, stage: str) -> None:
        """Let go of the figures of a stage, and of those behind it."""
        names = [summary.name for summary in self.summaries]
        if stage in names:
            del self.summaries[names.index(stage) :]

    @property
    def metrics_bytes(self) -> int:
        """How long metrics.jsonl is."""
        return self._metrics.stat().st_size if self._metrics.exists() else 0

    def cut_metrics(self, size: int) -> None:
        """Take away what metrics.jsonl has beyond that size."""
        if self.metrics_bytes > size:
            with readable_os_errors(self._metrics):
                os.truncate(self._metrics, size)

    def add_metrics(self, values: dict) -> None:
        """Append a line to metrics.jsonl."""
        append_line(self._metrics, json.dumps(values))

    def add_evaluation(self, summary: StageSummary, records: list[Record]) -> None:
        """Write an evaluation's records, and its figures into summary.json."""
        write_records(self.path / "records" / f"{summary.name}.jsonl", records)
        self.summaries.append(summary)
        write_text(self.path / "summary.json", to_json({"stages": [asdict(s) for s in self.summaries]}))

    @property
    def adapter(self) -> Path:
        """Where the adapter directory goes."""
        return self.path / "adapter"

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"


def _began_with(manifest: dict) -> dict:
    libraries = manifest.get("libraries")
    flat = {key: manifest.get(key) for key in ("heft_version", "python", "platform", "device")}
    return flat | (libraries if isinstance(libraries, dict) else {})


_WORDS = {"base": "base model", "data": "data"}
_FIRST_FILES = {LOCK_FILE, "records", "recipe.yaml", "recipe.yaml.partial", "manifest.json.partial"}
"""What there is before manifest.json: a run that was ended so early has done nothing yet."""


def is_begun(path: Path) -> bool:
    """Whether there is a run that can be gone on with, or that is finished."""
    return is_file(path / "manifest.json") and is_file(path / "recipe.yaml")


def model_begun_with(path: Path, model: ModelSettings) -> ModelSettings:
    """A recipe's model with the dtype that `auto` was when the run in a directory was begun, perhaps elsewhere.

    Raises:
        HeftError: its manifest cannot be read, or does not say.
    """
    base = read_json(path / "manifest.json").get("base")
    begun = {"dtype": base.get("dtype") if isinstance(base, dict) else None} if model.dtype == "auto" else {}
    try:
        return ModelSettings.model_validate(model.model_dump() | begun)
    except ValidationError:
        raise HeftError(
            f"{path / 'manifest.json'} gives the base the dtype {begun['dtype']!r}, which this version of heft does"
            " not know, so it cannot be gone on with: give another directory with --output DIR"
        ) from None


def is_finished(path: Path) -> bool:
    """Whether a run is there with its adapter, which is written last."""
    return is_begun(path) and is_file(path / "adapter" / "heft.json")


def require_free(path: Path) -> None:
    """See that a run may be written there.

    Raises:
        HeftError: the path is a file, cannot be a directory, or is one that is not empty.
    """
    above = nearest_existing(path)
    if not is_dir(above):
        what = "is a file" if above == path else f"cannot be made: {above} is a file"
        raise HeftError(f"output {path} {what}; give a directory that does not exist yet (--output DIR)")
    with readable_os_errors(path), suppress(FileNotFoundError):
        os.stat(path)  # where its name is too long, or may not be looked up
    if is_dir(path) and any(each.name != LOCK_FILE for each in path.iterdir()):
        if is_begun(path) and not is_finished(path):
            if _is_sweep(path):
                raise HeftError(
                    f"output {path} holds a sweep that is not finished, and a sweep begins again: remove it, or give"
                    " another directory with --output DIR"
                )
            raise HeftError(
                f"output {path} holds a run that is not finished: go on with it with --resume, give another directory"
                " with --output DIR, or remove it"
            )
        holds = "already holds a run" if is_file(path / "recipe.yaml") else "is not empty"
        raise HeftError(f"output {path} {holds}; give another with --output DIR, or remove it")


def require_same(recipe: Recipe) -> Recipe:
    """See that the run in a recipe's directory was begun with that recipe.

    Returns:
        The recipe, with the run's date for its chat template where it leaves that open.

    Raises:
        HeftError: it was another one.
    """
    path = recipe.output_dir / "recipe.yaml"
    if _is_sweep(recipe.output_dir):
        raise HeftError(f"{recipe.output_dir} holds a sweep, which is not gone on with; give another with --output DIR")
    there = load_recipe(path)
    unlike = difference(there, recipe)
    if unlike is not None:
        command = shlex.join(["heft", "train", str(path), "--resume", "--output", str(recipe.output_dir)])
        raise HeftError(
            f"{recipe.output_dir} holds a run of another recipe ({unlike}); go on with `{command}`, or"
            " give another directory with --output DIR"
        )
    return with_date_of(there, recipe)


def _is_sweep(path: Path) -> bool:
    return load_recipe(path / "recipe.yaml").sweep is not None


def clear_first_files(path: Path) -> None:
    """Remove what a run left that was ended before it had done anything; nothing where there is more, or no such run.

    Raises:
        HeftError: another process is working there.
    """
    if is_file(path / LOCK_FILE) and {each.name for each in path.iterdir()} <= _FIRST_FILES:
        with locked(path, "run"):
            _remove_first_files(path)


def _remove_first_files(path: Path) -> None:
    shutil.rmtree(path / "records", ignore_errors=True)
    for name in _FIRST_FILES - {LOCK_FILE, "records"}:
        (path / name).unlink(missing_ok=True)


def read_summaries(path: Path) -> list[StageSummary]:
    """What summary.json of a run says; nothing where there is none yet.

    Raises:
        HeftError: it cannot be read.
    """
    file = path / "summary.json"
    if not file.exists():
        return []
    try:
        found = [StageSummary(**stage) for stage in read_json(file)["stages"]]
        return TypeAdapter(list[StageSummary]).validate_python([asdict(each) for each in found])
    except (KeyError, TypeError, ValidationError) as error:
        why = str(error).strip().replace("\n", " ")
        raise HeftError(f"{file} is not one that this version of heft has written: {why}") from None


def agrees(summary: StageSummary, file: Path) -> bool:
    """Whether a file of records is there and is what the figures were computed from, as far as figures can tell."""
    try:
        records = read_records(file)
    except HeftError:
        return False
    return len(records) == summary.n and sum(r.correct for r in records) == round(summary.accuracy * summary.n)
