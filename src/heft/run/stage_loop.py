"""The stages of a run: each is trained, checkpointed and evaluated, from wherever an earlier call has left it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, set_seed

from heft.adapters import directory as adapter_dir
from heft.adapters.attach import attach, finish, left_out_in_words, overview
from heft.adapters.methods import adapters_of
from heft.costs.stage import StageCosts, stage_costs
from heft.data.rows import Data
from heft.errors import HeftError
from heft.evaluation.evaluator import Evaluation, evaluate_examples
from heft.models.load import Base
from heft.recipe.recipe import Recipe, ReftStage, Stage
from heft.results.summary import StageSummary
from heft.run.checkpoints import Checkpoints, StepCheckpoint
from heft.run.directory import RunDirectory
from heft.runtime import distributed, signals
from heft.runtime.reporter import Reporter
from heft.tasks import task_for
from heft.training.checkpointing import CheckpointPlan, StageCheckpoint
from heft.training.stage import StageOutcome, train_stage


@dataclass(frozen=True)
class StageLoop:
    """Trains and evaluates a run's stages; each step is a method.

    Attributes:
        recipe, base, data: what the run is about.
        directory: where earlier results are found; one of the listeners of `reporter`.
        reporter: hears metrics, evaluations and notes.
    """

    recipe: Recipe
    base: Base
    data: Data
    directory: RunDirectory
    reporter: Reporter

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        folder = self.directory.path / "checkpoints"
        return Checkpoints(folder, list(self.recipe.stages), self.recipe.checkpoint.keep, self.reporter.note)

    def run(self) -> None:
        """Run all evaluations and stages except those that the directory has already."""
        evaluated = [summary.name for summary in self.directory.summaries]
        if "base" not in evaluated:
            self.evaluate_base()
        metrics_bytes = 0
        for name, stage in self.recipe.stages.items():
            done = self.checkpoints.trained(name)
            if done is None:
                self.directory.forget_from(name)
                with signals.deferred():
                    outcome = self.train_and_checkpoint(name, stage, metrics_bytes)
                metrics_bytes = self.directory.metrics_bytes
            else:
                for adapter in adapters_of(name, stage):
                    adapter_dir.attach_saved(self.base.model, done.folder / adapter.name, adapter.name)
                self.base.model.eval()
                outcome, metrics_bytes = Trained.from_dict(done.outcome), done.metrics_bytes
                self.reporter.note(f"stage {name} is already trained")
            if name not in [summary.name for summary in self.directory.summaries]:
                self.evaluate_stage(name, outcome)

    def evaluate_base(self) -> None:
        """Evaluate the model before any stage."""
        evaluation = self.evaluate("base")
        summary = StageSummary.of("base", evaluation.metrics, evaluation_seconds=evaluation.seconds)
        self.reporter.evaluated(summary, evaluation.records)

    def train_and_checkpoint(self, name: str, stage: Stage, metrics_bytes: int) -> "Trained":
        """Train a stage from where its last checkpoint is, with checkpoints on the way and at the end.

        Args:
            name: of the stage.
            stage: its settings.
            metrics_bytes: length of metrics.jsonl after the stage before.
        """
        last = self.checkpoints.last_step(name)
        distributed.barrier()  # each has read what the main one now removes or replaces
        step = last.state.progress.step if last else 0
        if distributed.is_main():
            self.checkpoints.forget_after(name, step)
            logged = last.metrics_bytes if last else metrics_bytes
            if self.directory.metrics_bytes < logged:
                self.reporter.note("metrics.jsonl lacks what was logged before; curves will lack it too")
            self.directory.cut_metrics(logged)
        if last:
            _require_as_many_processes(len(last.state.random))
            self.reporter.note(f"resuming stage {name} after step {step:,}")
            self.reporter.resumed(name, step)
        costs = self.count(name, last.cache if last else None)
        cache = costs.reuse.store if isinstance(stage, ReftStage) else None
        if cache is not None:  # what is counted is what runs, and a resumed stage runs as it was started
            stage = stage.model_copy(update={"cache": cache})

        def write(state: StageCheckpoint) -> None:
            if distributed.is_main():
                self.checkpoints.write_step(name, StepCheckpoint(state, cache, self.directory.metrics_bytes))

        plan = CheckpointPlan(self.recipe.checkpoint, write, last and last.state)
        parameters, outcome = self.train_stage(name, stage, plan)
        passes = costs.passes_of(outcome.tokens)
        plain = costs.plain_flops(passes)
        flops = costs.flops(passes) if outcome.reuses else plain
        trained = Trained(parameters, flops, plain, outcome)
        if distributed.is_main():
            save = partial(_save_adapters, self.base.model, [adapter.name for adapter in adapters_of(name, stage)])
            self.checkpoints.write_trained(name, asdict(trained), save, self.directory.metrics_bytes)
        return trained

    def evaluate_stage(self, name: str, trained: "Trained") -> None:
        """Evaluate the model after a stage."""
        outcome = trained.outcome
        evaluation = self.evaluate(name)
        summary = StageSummary.of(
            name,
            evaluation.metrics,
            trainable_parameters=trained.parameters,
            seconds=outcome.seconds,
            evaluation_seconds=evaluation.seconds,
            steps=outcome.steps,
            tokens=outcome.tokens,
            flops=trained.flops,
            plain_flops=trained.plain_flops,
            stored_parameters=adapter_dir.stored_parameters(self.base.model),
            peak_bytes=outcome.peak_bytes,
            ended=outcome.ended,
            ended_because=outcome.ended_because,
        )
        self.reporter.evaluated(summary, evaluation.records)

    def count(self, name: str, cache: str | None) -> StageCosts:
        """What training a stage costs, with the store that `cache: auto` means now.

        Args:
            name: of the stage.
            cache: what it meant when the stage was begun; None where it is begun now.
        """
        recipe = self.recipe.model_copy(update={"model": self.base.settings})
        if cache is not None:
            begun = recipe.stages[name].model_copy(update={"cache": cache})
            recipe = recipe.model_copy(update={"stages": {**recipe.stages, name: begun}})
        costs = stage_costs(recipe, name, self.data.train)
        if costs.shape.uncounted is not None:
            self.reporter.note(f"FLOPs of stage {name} are not counted: {costs.shape.uncounted}")
        return costs

    def train_stage(self, name: str, stage: Stage, plan: CheckpointPlan | None = None) -> tuple[int, StageOutcome]:
        """Attach a stage's adapters, train and freeze them; how many numbers were trained, and what it took."""
        seed = self.recipe.stage_seed(name)
        set_seed(seed)
        attached = attach(self.base.model, name, stage, self.base.tokenizer)
        trained = self.base.model.num_parameters(only_trainable=True)
        for words in left_out_in_words(self.base.model, name, stage):
            self.reporter.note(words)
        self.reporter.overview(name, overview(self.base.model))
        outcome = train_stage(
            self.base.model,
            name,
            stage,
            self.data.train,
            pad_id=self.base.tokenizer.pad_token_id,
            seed=seed,
            reporter=self.reporter,
            holdout_seed=self.recipe.holdout_seed(name),
            plan=plan,
            attention=self.base.settings.attention,
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


@dataclass(frozen=True)
class Trained:
    """A stage after its training.

    Attributes:
        parameters: how many numbers were trained.
        flops, plain_flops: of the training, see heft.results.summary.StageSummary.
        outcome: what it took.
    """

    parameters: int
    flops: float | None
    plain_flops: float | None
    outcome: StageOutcome

    @classmethod
    def from_dict(cls, values: dict) -> "Trained":
        """From what `asdict` gave."""
        return cls(**{**values, "outcome": StageOutcome(**values["outcome"])})


def _save_adapters(model: PreTrainedModel, names: Sequence[str], folder: Path) -> None:
    for name in names:
        adapter_dir.save_adapter(folder / name, model, name)


def _require_as_many_processes(before: int) -> None:
    if before != distributed.count():
        raise HeftError(
            f"this run was begun with {before} processes and cannot be resumed with {distributed.count()}, since each"
            f" draws its own random numbers; start {before}"
        )
