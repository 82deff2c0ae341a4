"""The stages of a run: each is trained, checkpointed and evaluated, from wherever an earlier call has left it."""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedModel, set_seed

from heft.adapters import directory as adapter_dir
from heft.adapters.attach import abandon, finish, left_out_in_words, overview
from heft.adapters.existing import begin_stage, take_as_it_is
from heft.adapters.methods import adapters_of
from heft.adapters.orthogonal import orthogonal_in_words
from heft.costs.pieces import evaluation_name, pieces_of
from heft.costs.stage import StageCosts, stage_costs
from heft.data.rows import Data
from heft.evaluation.evaluator import evaluate_examples
from heft.models.load import Base, choose_device
from heft.models.sharding import sharded_copy
from heft.recipe.recipe import Recipe, Stage
from heft.results.summary import StageSummary
from heft.run.checkpoints import Checkpoints, StepCheckpoint
from heft.run.directory import RunDirectory
from heft.run.evaluation_prefixes import EvaluationPrefixes
from heft.run.tails import note_tails
from heft.runtime import distributed, signals
from heft.runtime.reporter import Piece, Reporter
from heft.tasks import task_for
from heft.training.checkpointing import CheckpointPlan, StageCheckpoint
from heft.training.reuse.shared import RowPrefixes, StagePrefixes, shared_prefix
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
        folder = self.directory.checkpoints
        return Checkpoints(folder, list(self.recipe.stages), self.recipe.checkpoint.keep, self.reporter.warn)

    def run(self) -> None:
        """Run all evaluations and stages except those that the directory has already."""
        evaluated = [summary.name for summary in self.directory.summaries]
        self.reporter.expected(self.pieces(evaluated))
        if "base" not in evaluated:
            self.evaluate("base")
        metrics_bytes = 0
        for name, stage in self.recipe.stages.items():
            done = self.checkpoints.trained(name)
            if stage.is_frozen:
                figures = self.take(name, stage)
            elif done is None:
                self.directory.forget_from(name)
                with signals.deferred():
                    figures = self.train_and_checkpoint(name, stage, metrics_bytes)
                metrics_bytes = self.directory.metrics_bytes
            else:
                for adapter in adapters_of(name, stage):
                    adapter_dir.attach_saved(self.base.model, done.folder / adapter.name, adapter.name)
                self.base.model.eval()
                figures, metrics_bytes = done.figures, done.metrics_bytes
                self.reporter.note(f"stage {name} is already trained")
            if name not in [summary.name for summary in self.directory.summaries]:
                self.evaluate(name, stored_parameters=adapter_dir.stored_parameters(self.base.model), **figures)

    def pieces(self, evaluated: Collection[str]) -> list[Piece]:
        """What is left to do, with its costs."""
        recipe = self.recipe.model_copy(update={"model": self.base.settings})
        trained, checkpoints = [], replace(self.checkpoints, note=lambda text: None)  # damage is said when it is met
        for name, stage in recipe.stages.items():
            if not stage.is_frozen:  # which leaves no checkpoint
                if checkpoints.trained(name) is None:
                    break
                trained.append(name)
        return pieces_of(recipe, self.base.model, self.data, evaluated, trained)

    def take(self, name: str, stage: Stage) -> dict:
        """Attach the adapter that a frozen stage takes as it is; returns figures as `train_and_checkpoint` does."""
        take_as_it_is(self.base.model, name, stage)
        self.reporter.overview(name, overview(self.base.model))
        return {"ended": "frozen", "ended_because": f"taken as it is from {stage.source}"}

    def train_and_checkpoint(self, name: str, stage: Stage, metrics_bytes: int) -> dict:
        """Train a stage from where its last checkpoint is, with checkpoints on the way and at the end.

        `metrics_bytes` is the length of metrics.jsonl after the stage before. Returns figures of the training, by the
        names that they have in a `StageSummary`.
        """
        last = self.checkpoints.last_step(name)
        distributed.barrier()  # each has read what the main one now removes or replaces
        step = last.state.progress.step if last else 0
        if distributed.is_main():
            self.checkpoints.forget_after(name, step)
            logged = last.metrics_bytes if last else metrics_bytes
            if self.directory.metrics_bytes < logged:
                self.reporter.warn("metrics.jsonl lacks what was logged before; curves will lack it too")
            self.directory.cut_metrics(logged)
        if last:
            self._note_other_processes(len(last.state.random))
            self.reporter.note(f"resuming stage {name} after step {step:,}")
            self.reporter.resumed(name, step)
            if last.cache is not None:  # a resumed stage runs as it was started
                stage = stage.model_copy(update={"cache": last.cache})
        elif self.prefixes is not None and self.prefixes.base.kind is not None and name in self.prefixes.shared.stages:
            stage = stage.model_copy(update={"cache": self.prefixes.base.kind})  # where an earlier stage has put them
        costs = self.count(name, stage)
        cache = costs.reuse.store
        stage = stage.model_copy(update={"cache": cache})  # what is counted is what runs

        def write(state: StageCheckpoint) -> None:
            if distributed.is_main():
                self.checkpoints.write_step(name, StepCheckpoint(state, cache, self.directory.metrics_bytes))

        def save_adapters(folder: Path) -> None:
            for adapter in adapters_of(name, stage):
                adapter_dir.save_adapter(folder / adapter.name, self.base.model, adapter.name)

        plan = CheckpointPlan(self.recipe.checkpoint, write, last and last.state)
        shared = self.prefixes if costs.reuse.stages else None
        parameters, outcome = self.train_stage(name, stage, plan, shared)
        if shared is not None and name == shared.shared.stages[-1]:
            shared.base.close()
        passes = costs.passes_of(outcome.tokens)
        plain = costs.plain_flops(passes)
        figures = asdict(outcome)
        flops = costs.flops(passes) if figures.pop("reuses") else plain
        figures |= {"trainable_parameters": parameters, "flops": flops, "plain_flops": plain}
        if distributed.is_main():
            self.checkpoints.write_trained(name, figures, save_adapters, self.directory.metrics_bytes)
        return figures

    def _note_other_processes(self, begun_with: int) -> None:
        if begun_with != distributed.count():
            processes = f"{begun_with} process{'es' if begun_with > 1 else ''}"
            self.reporter.warn(
                f"begun with {processes} and resumed with {distributed.count()}: rows and steps stay the same, sums are"
                " taken in another order, and dropout draws other numbers"
            )

    def count(self, name: str, stage: Stage) -> StageCosts:
        """What training a stage costs, with the store that `cache: auto` means now."""
        stages = {**self.recipe.stages, name: stage}
        recipe = self.recipe.model_copy(update={"model": self.base.settings, "stages": stages})
        costs = stage_costs(recipe, name, self.data.train)
        if costs.shape.uncounted is not None:
            self.reporter.note(f"FLOPs of stage {name} are not counted: {costs.shape.uncounted}")
        return costs

    @cached_property
    def prefixes(self) -> StagePrefixes | None:
        """The prefixes that several stages share; None where they do not."""
        shared = shared_prefix(self.recipe)
        if shared is None:
            return None
        return StagePrefixes(shared, RowPrefixes(self.data.train, shared.start, shared.rows_per_pass))

    @cached_property
    def evaluation_prefixes(self) -> EvaluationPrefixes:
        """The prefixes that several evaluations share."""
        return EvaluationPrefixes(self.recipe, self.base, self.data.eval)

    def train_stage(
        self, name: str, stage: Stage, plan: CheckpointPlan | None = None, prefixes: StagePrefixes | None = None
    ) -> tuple[int, StageOutcome]:
        """Attach a stage's adapters, train and freeze them; how many numbers were trained, and what it took."""
        seed = self.recipe.stage_seed(name)
        set_seed(seed)
        attached = begin_stage(self.base.model, name, stage, self.base.tokenizer)
        trained = self.base.model.num_parameters(only_trainable=True)
        for words in left_out_in_words(self.base.model, name, stage):
            self.reporter.note(words)
        for words in orthogonal_in_words(self.base.model, name, name, stage):
            self.reporter.note(words)
        self.reporter.overview(name, overview(self.base.model))
        try:
            with self.computing() as model:
                outcome = train_stage(
                    model,
                    name,
                    stage,
                    self.data.train,
                    pad_id=self.base.tokenizer.pad_token_id,
                    seed=seed,
                    reporter=self.reporter,
                    holdout_seed=self.recipe.holdout_seed,
                    plan=plan,
                    attention=self.base.settings.attention,
                    prefixes=prefixes,
                )
        except BaseException:
            abandon(self.base.model, attached)
            raise
        finish(self.base.model, attached)
        note_tails(self.base.model, attached.names, [*self.data.train, *self.data.eval])
        return trained, outcome

    def computing(self) -> AbstractContextManager[PreTrainedModel]:
        """The model that computes: the base with its adapters, or what processes share of it; what trains in it inside
        is the base's afterwards."""
        if not distributed.shards(self.recipe.distributed):
            return nullcontext(self.base.model)
        return sharded_copy(self.base.model, choose_device(self.base.settings.device))

    def evaluate(self, name: str, **figures) -> StageSummary:
        """Evaluate the base or the model after a stage on the evaluation split, and report it with further figures."""
        task, settings = task_for(self.recipe.task), self.recipe.evaluation
        what, tokenizer = evaluation_name(name), self.base.tokenizer
        with self.computing() as model:
            kept = self.evaluation_prefixes.of(name, model, self.reporter)
            evaluation = evaluate_examples(model, tokenizer, task, self.data.eval, settings, self.reporter, what, kept)
        self.evaluation_prefixes.ended(name)
        labels = None if evaluation.labels is None else list(evaluation.labels)
        figures |= {"evaluation_seconds": evaluation.seconds, "labels": labels}
        summary = StageSummary.of(name, evaluation.metrics, **figures)
        self.reporter.evaluated(summary, evaluation.records)
        return summary
