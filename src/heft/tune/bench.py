"""One base model on which trials are trained and measured, each leaving the model as it was."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from transformers import set_seed

from heft.adapters.attach import finish
from heft.adapters.detach import gone_afterwards
from heft.adapters.existing import begin_stage
from heft.data.encode import EncodedExample
from heft.data.padding import padding_matters
from heft.data.rows import Data
from heft.models.load import Base
from heft.recipe.grid import Configuration
from heft.recipe.recipe import Recipe, ReftStage, Stage
from heft.run.directory import RunDirectory
from heft.run.stage_loop import StageLoop
from heft.runtime.reporter import Reporter, Reporters
from heft.sweep.arrange import side_by_side
from heft.training.attention import attention_for_training
from heft.training.batches import TrainingData
from heft.training.checked_loss import longest_of
from heft.training.fused_lora import fused_lora
from heft.training.guards import Diverged
from heft.training.modes import repeatable, trained_parameters
from heft.training.snapshot import restore_weights
from heft.training.stage import split_validation
from heft.tune.measure import NOT_FINITE, Measured, measured_alone, measured_together
from heft.tune.prices import Counter
from heft.tune.trial import Outcome, dumped, key_of, recipe_of_stages


@dataclass(frozen=True)
class Before:
    """The stage below those that are tried: trained, frozen.

    Attributes:
        name: of the stage.
        stage: as a recipe has it that trains just this far.
        seconds: of training it.
        flops: the same.
        weights: gives those of its adapter at the end of training, by name.
    """

    name: str
    stage: Stage
    seconds: float
    flops: float
    weights: Callable[[], Mapping[str, torch.Tensor]]

    @property
    def stages(self) -> dict[str, Stage]:
        """As the beginning of a recipe's stages."""
        return {self.name: self.stage}


class Quiet(Reporter):
    """Passes on progress, and keeps warnings to itself: of a trial's many notes a person wants none.

    Attributes:
        warnings: that were heard.
    """

    def __init__(self, reporter: Reporter):
        self._to = reporter
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, what: str, total: int):
        return self._to.progress(what, total)

    def step(self, what: str, done: int, total: int) -> None:
        self._to.step(what, done, total)


class Logged(Reporter):
    """Writes the metrics of a trial into metrics.jsonl, with the trial's key."""

    def __init__(self, directory: RunDirectory, keys: Sequence[str]):
        self._directory, self._keys = directory, list(keys)

    def metrics(self, values: dict) -> None:
        name = values.get("configuration")  # of several side by side: c00, c01, …
        key = self._keys[int(name[1:]) if name else 0]
        self._directory.metrics({**values, "configuration": key})


@dataclass(frozen=True)
class Bench:
    """Trains and measures trials.

    Attributes:
        recipe: the one that is searched, resolved; its stages do not matter here.
        base: with nothing attached between two calls.
        rows: all training rows, validation rows among them.
        holdout: share of these.
        counter: of FLOPs.
        directory: whose metrics.jsonl gets every step.
        reporter: hears of progress.
        tokens_per_pass: of configurations side by side.
    """

    recipe: Recipe
    base: Base
    rows: Sequence[EncodedExample]
    holdout: float
    counter: Counter
    directory: RunDirectory
    reporter: Reporter
    tokens_per_pass: int

    @cached_property
    def validation_rows(self) -> list[EncodedExample]:
        """Those that no trial trains on."""
        return split_validation(self.rows, self.holdout, self.recipe.holdout_seed)[1]

    @cached_property
    def rows_are_packed(self) -> bool:
        """Whether rows of several lengths may run together, as configurations side by side do."""
        return not padding_matters(self.base.model, self.base.tokenizer.pad_token_id, longest_of(self.rows))

    def goes_together(self, stages: Sequence[Stage]) -> bool:
        """Whether these stages can be trained side by side on one model."""
        return len(stages) > 1 and self.rows_are_packed and all(isinstance(stage, ReftStage) for stage in stages)

    def train_on_top(
        self, before: Before | None, name: str, stages: Sequence[Stage], values: Sequence[dict]
    ) -> list[Outcome]:
        """Train each of these stages, called `name`, on top of what is before it, and measure it.

        Side by side where that is possible, else one after the other. The model is left as it was.
        """
        if self.goes_together(stages):
            return self._together(before, name, stages, values)
        return [self._alone(before, name, stage, own) for stage, own in zip(stages, values, strict=True)]

    def _alone(self, before: Before | None, name: str, stage: Stage, values: dict) -> Outcome:
        started = time.perf_counter()
        stages = {**(before.stages if before else {}), name: stage}
        with gone_afterwards(self.base.model), self.attached(before):
            loop = self.loop(stages, [key_of(stages)])
            try:
                _, outcome = loop.train_stage(name, stage)
                training, measured = outcome.seconds, self.measure()
            except Diverged:
                training, measured = time.perf_counter() - started, NOT_FINITE
        found = self._outcome(before, name, stage, values, measured)
        seconds = time.perf_counter() - started
        return replace(found, seconds=seconds, trained_seconds=training, training_seconds=training)

    def _together(
        self, before: Before | None, name: str, stages: Sequence[ReftStage], values: Sequence[dict]
    ) -> list[Outcome]:
        started = time.perf_counter()
        below = before.stages if before else {}
        recipe = recipe_of_stages(self.recipe, {**below, name: stages[0]})
        tried = [
            Configuration(f"c{number:02}", own, stage)
            for number, (own, stage) in enumerate(zip(values, stages, strict=True))
        ]
        data = TrainingData(
            *split_validation(self.rows, self.holdout, recipe.holdout_seed), self.base.tokenizer.pad_token_id
        )
        seeds = [recipe.stage_seed(name)] * len(tried)
        keys = [key_of({**below, name: stage}) for stage in stages]
        model, quiet = self.base.model, Reporters([Quiet(self.reporter), Logged(self.directory, keys)])
        with ExitStack() as modes:
            modes.enter_context(gone_afterwards(model))
            modes.enter_context(self.attached(before))
            modes.enter_context(fused_lora(model, stages[0].fused))
            modes.enter_context(repeatable(model.device))
            modes.enter_context(attention_for_training(model, self.base.settings.attention, data.examples))
            packed = side_by_side(self.base, tried, data, seeds, self.tokens_per_pass, quiet)
            training = modes.enter_context(packed)
            trained = training.train(name, quiet)
            measured = measured_together(training, recipe.evaluation.normalize)
        found = [self._outcome(before, name, *about) for about in zip(stages, values, measured, strict=True)]
        return self._shared_out(found, before, name, stages, trained, time.perf_counter() - started)

    def _shared_out(
        self,
        found: Sequence[Outcome],
        before: Before | None,
        name: str,
        stages: Sequence[ReftStage],
        trained: float,
        seconds: float,
    ) -> list[Outcome]:
        """Outcomes with their shares of what they took together, by what each would cost alone."""
        flops = self.counter.flops_together(before.stages if before else {}, name, stages)
        whole = sum(each.training_flops for each in found)
        return [
            replace(
                each,
                seconds=seconds * each.training_flops / whole,
                trained_seconds=trained * each.training_flops / whole,
                flops=flops * each.training_flops / whole,
                together=len(found),
            )
            for each in found
        ]

    def _outcome(self, before: Before | None, name: str, stage: Stage, values: dict, measured: Measured) -> Outcome:
        below = before.stages if before else {}
        stages = {**below, name: stage}
        flops = self.counter.flops_alone(below, name, stage)
        return Outcome(
            key=key_of(stages),
            kind=stage.method,
            stages=dumped(stages),
            values=values,
            loss=measured.loss,
            accuracy=measured.accuracy,
            row_losses=measured.row_losses,
            flops=flops,
            training_flops=flops,
            before_seconds=before.seconds if before else 0.0,
            before_flops=before.flops if before else 0.0,
            steps=stage.steps,
        )

    def loop(self, stages: Mapping[str, Stage], keys: Sequence[str]) -> StageLoop:
        """What trains these stages as `heft train` does, without rows of the evaluation split."""
        heard = Reporters([Quiet(self.reporter), Logged(self.directory, keys)])
        return StageLoop(
            recipe_of_stages(self.recipe, stages), self.base, Data(list(self.rows), []), self.directory, heard
        )

    @contextmanager
    def attached(self, before: Before | None) -> Iterator[None]:
        """Meanwhile the stage before is on the model, trained and frozen; taken off by who asks for that."""
        if before is not None:
            weights = before.weights()  # which may have to be trained, on the bare base
            recipe = recipe_of_stages(self.recipe, before.stages)
            set_seed(recipe.stage_seed(before.name))
            attached = begin_stage(self.base.model, before.name, before.stage, self.base.tokenizer)
            restore_weights(trained_parameters(self.base.model), weights)
            finish(self.base.model, attached)
        yield

    def measure(self) -> Measured:
        """The model as it is on the validation rows."""
        return measured_alone(self.base, self.recipe, self.validation_rows)
