"""`heft train`: a recipe from its checks to its run directory."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from transformers import set_seed

from heft import __version__, adapter_dir, processes
from heft.costs.stage import StageCosts, stage_costs
from heft.data import EncodedExample, Encoder
from heft.errors import HeftError
from heft.evaluation.evaluator import Evaluation, evaluate_examples
from heft.evaluation.records import Record
from heft.models import Base, choose_device, load_base, load_tokenizer
from heft.recipe import Recipe, ReftStage, Stage
from heft.recipe_io import dump_recipe, load_recipe
from heft.reft.settings import Positions
from heft.reporter import Reporter
from heft.run_dir import RUN_FORMAT, RunDirectory, StageSummary, require_free
from heft.stages import attach, check_targets, edited_positions, finish, overview, parts, trainable_parameters
from heft.sweep.grid import refuse_sweep
from heft.tasks import load_examples, task_for
from heft.training.stage import StageOutcome, train_stage

_LIBRARIES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: where it is.
        stages: figures of the base, then of the model after each stage.
    """

    directory: Path
    stages: list[StageSummary]


def train(recipe: Recipe | str | Path, reporter: Reporter | None = None) -> Run:
    """Run a recipe: evaluate the base, train each stage and evaluate after it, write the run directory.

    Under torchrun or accelerate launch the processes train together, with the result of one; the main one writes.

    Args:
        recipe: a recipe, or the path of one.
        reporter: is told what happens, by the main process; None for nobody.

    Raises:
        HeftError: something in the recipe, its data or its model is wrong; nothing has been written.
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
    reporter = reporter if reporter is not None and processes.is_main() else Reporter()
    refuse_sweep(recipe)
    processes.join(choose_device(recipe.model.device))
    require_free(recipe.output_dir)
    data = read_data(recipe, reporter)
    reporter.note(f"loading {recipe.model.name}")
    base = load_base(recipe.model)
    check_targets(base.model, recipe)

    processes.wait_for_all()  # each has seen that the directory is free
    directory = RunDirectory(recipe.output_dir) if processes.is_main() else _Unwritten(recipe.output_dir)
    directory.create(dump_recipe(recipe), run_manifest(recipe, base, data))
    work = Work(recipe, base, data, directory, reporter)
    work.evaluate_base()
    for index, (name, stage) in enumerate(recipe.stages.items()):
        work.run_stage(index, name, stage)
    if processes.is_main():
        adapter_dir.save(directory.adapter, base.model, adapter_manifest(recipe, base))
    processes.wait_for_all()  # each may now load what was saved
    return Run(directory.path, directory.summaries)


@dataclass(frozen=True)
class Data:
    """A task's rows in token ids."""

    train: list[EncodedExample]
    eval: list[EncodedExample]


def read_data(recipe: Recipe, reporter: Reporter, positions: Sequence[Positions] | None = None) -> Data:
    """Read and encode a recipe's rows; `positions` are what adapters edit, None for those of the recipe's stages.

    Raises:
        HeftError: rows cannot be read, do not fit, or leave nothing to train on.
    """
    task = recipe.task
    examples = {split: load_examples(task, split) for split in ("train", "eval")}
    positions = edited_positions(recipe) if positions is None else positions
    encode = Encoder(load_tokenizer(recipe.model), task.max_length, task.chat_template, positions)
    data = Data(encode(examples["train"]), encode(examples["eval"]))
    for what, rows in (("train", data.train), ("evaluation", data.eval)):
        cut = sum(row.cut > 0 for row in rows)
        tokens = sum(row.cut for row in rows)
        suffix = f"; {cut:,} prompts cut to {task.max_length} tokens ({tokens:,} tokens dropped)" if cut else ""
        reporter.note(f"{len(rows):,} {what} rows of {task.name}{suffix}")
    for name, stage in recipe.stages.items():
        if stage.holdout and round(stage.holdout * len(data.train)) >= len(data.train):
            raise HeftError(f"stages.{name}.holdout {stage.holdout} of {len(data.train)} rows leaves none to train on")
    return data


@dataclass(frozen=True)
class Work:
    """The pieces of a run: what it works on, and each step."""

    recipe: Recipe
    base: Base
    data: Data
    directory: RunDirectory
    reporter: Reporter

    def evaluate_base(self) -> None:
        """Evaluate the model before any stage."""
        evaluation = self.evaluate("base")
        summary = StageSummary.of("base", evaluation.metrics, evaluation_seconds=evaluation.seconds)
        self.directory.add_evaluation(summary, evaluation.records)

    def run_stage(self, index: int, name: str, stage: Stage) -> None:
        """Train a stage and evaluate the model after it."""
        costs = self.count(name)
        if costs is not None and isinstance(stage, ReftStage):  # what is counted is what runs
            stage = stage.model_copy(update={"cache": costs.reuse.store})
        trained, outcome = self.train_stage(index, name, stage)
        passes = costs and costs.passes_of(outcome.tokens)
        evaluation = self.evaluate(name)
        summary = StageSummary.of(
            name,
            evaluation.metrics,
            trainable_parameters=trained,
            seconds=outcome.seconds,
            evaluation_seconds=evaluation.seconds,
            steps=outcome.steps,
            tokens=outcome.tokens,
            flops=costs and costs.flops(passes),
            plain_flops=costs and costs.plain_flops(passes),
            stored_parameters=adapter_dir.stored_parameters(self.base.model),
            peak_bytes=outcome.peak_bytes,
            ended=outcome.ended,
            ended_because=outcome.ended_because,
        )
        self.directory.add_evaluation(summary, evaluation.records)

    def count(self, name: str) -> StageCosts | None:
        """What training a stage costs, with the store that `cache: auto` means now; None where that cannot be told."""
        try:
            return stage_costs(self.recipe, name, self.data.train)
        except Exception as error:  # a model that trains need not run on the meta device, and this is but a figure
            self.reporter.note(f"FLOPs of stage {name} are not counted: {type(error).__name__}: {error}")
            return None

    def seed_of(self, index: int, stage: Stage) -> int:
        """The seed of a stage: its own, or one that follows from the recipe's and the stage's place."""
        return stage.seed if stage.seed is not None else self.recipe.seed + index

    def train_stage(self, index: int, name: str, stage: Stage) -> tuple[int, StageOutcome]:
        """Attach a stage's adapters, train and freeze them; how many numbers were trained, and what it took."""
        seed = self.seed_of(index, stage)
        set_seed(seed)
        attached = attach(self.base.model, name, stage)
        trained = trainable_parameters(self.base.model)
        self.reporter.overview(name, overview(self.base.model))
        outcome = train_stage(
            self.base.model,
            name,
            stage,
            self.data.train,
            pad_id=self.base.tokenizer.pad_token_id,
            seed=seed,
            reporter=_Recording(self.reporter, self.directory),
            holdout_seed=self.recipe.seed + index,
        )
        finish(self.base.model, attached)
        return trained, outcome

    def evaluate(self, name: str) -> Evaluation:
        """Evaluate the model as it is on the task's evaluation split."""
        task, settings = task_for(self.recipe.task), self.recipe.evaluation
        base = self.base
        return evaluate_examples(
            base.model, base.tokenizer, task, self.data.eval, settings, self.reporter, f"evaluation of {name}"
        )


class _Recording(Reporter):
    """Writes measurements to the run directory on their way to the person."""

    def __init__(self, inner: Reporter, directory: RunDirectory):
        self._directory = directory
        self.note, self.progress, self.step, self._show = inner.note, inner.progress, inner.step, inner.metrics

    def metrics(self, values: dict) -> None:
        self._directory.add_metrics(values)
        self._show(values)


class _Unwritten(RunDirectory):
    """The run's directory to a process that does not write: only figures are kept."""

    def create(self, recipe_yaml: str, manifest: dict) -> None:
        pass

    def add_metrics(self, values: dict) -> None:
        pass

    def add_evaluation(self, summary: StageSummary, records: list[Record]) -> None:
        self.summaries.append(summary)


def run_manifest(recipe: Recipe, base: Base, data: Data) -> dict:
    """What manifest.json holds: format, versions, seed, fingerprints."""
    return {
        "format": RUN_FORMAT,
        "heft_version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "device": str(base.model.device),
        "seed": recipe.seed,
        "base": {"name": recipe.model.name, "fingerprint": base.fingerprint},
        "data": {
            "train": {"rows": len(data.train), "fingerprint": _data_fingerprint(data.train)},
            "eval": {"rows": len(data.eval), "fingerprint": _data_fingerprint(data.eval)},
        },
    }


def _data_fingerprint(rows: Sequence[EncodedExample]) -> str:
    """16 hex digits of the SHA-256 of the rows' ids and token ids, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.example.id, row.prompt, row.choices, row.answer)).encode())
    return digest.hexdigest()[:16]


def adapter_manifest(recipe: Recipe, base: Base) -> adapter_dir.AdapterManifest:
    """What heft.json holds of a recipe's adapters."""
    entries = [
        adapter_dir.AdapterEntry(name=part.name, method="reft" if part.is_reft else "lora", stage=name)
        for name, stage in recipe.stages.items()
        for part in parts(name, stage)
    ]
    return adapter_dir.AdapterManifest(
        format=adapter_dir.FORMAT,
        heft_version=__version__,
        model=recipe.model,
        base_fingerprint=base.fingerprint,
        adapters=entries,
        task=recipe.task.model_dump(),
        evaluation=recipe.evaluation.model_dump(),
    )
