"""One base model on which trials are trained and measured, each leaving the model as it was."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from heft.adapters.attach import adapter_parameters, attach_adapters, finish
from heft.adapters.detach import gone_afterwards
from heft.adapters.methods import adapters_of
from heft.data.encode import EncodedExample
from heft.data.padding import padding_matters
from heft.data.rows import Data
from heft.data.validation import order_for, split_validation
from heft.edits.positions import parse_positions
from heft.evaluation.kept import QuestionPrefixes
from heft.models.load import Base
from heft.models.verdicts import Verdicts, remembered
from heft.recipe.grid import Configuration
from heft.recipe.recipe import Recipe, Stage
from heft.recipe.sweep import why_not_swept
from heft.run.directory import RunDirectory
from heft.run.stage_loop import StageLoop
from heft.runtime.reporter import Reporter, Reporters
from heft.sweep.arrange import side_by_side
from heft.sweep.forward import can_stand_side_by_side
from heft.sweep.learner import Learner
from heft.training.batches import TrainingData
from heft.training.checked_loss import longest_of
from heft.training.guards import Diverged
from heft.training.modes import trained_parameters
from heft.training.reuse.activation_cache import ROWS_PER_PASS
from heft.training.reuse.plan import NOTHING
from heft.training.reuse.shared import SharedPrefix, StagePrefixes, reach_back
from heft.training.snapshot import restore_weights
from heft.training.stage import StageOutcome
from heft.tune.kept import SearchPrefixes
from heft.tune.logged import Logged, Quiet
from heft.tune.measure import NOT_FINITE, Measured, are_few, measured_alone, measured_together
from heft.tune.prices import Counter
from heft.tune.repeats import number_of
from heft.tune.trial import Outcome, dumped, key_of, recipe_of_stages, unmeasured
from heft.tune.weights import Before, WeightFiles, WeightsInMemory


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
        weights: of trials behind which others are tried (heft.tune.weights).
        prefixes: the base's, for all trials (heft.tune.kept); None where each computes its own.
        verdicts: on fast paths, found in one trial for all of its kind (heft.models.verdicts).
    """

    recipe: Recipe
    base: Base
    rows: Sequence[EncodedExample]
    holdout: float
    counter: Counter
    directory: RunDirectory
    reporter: Reporter
    tokens_per_pass: int
    weights: WeightFiles | WeightsInMemory
    prefixes: SearchPrefixes | None = None
    verdicts: Verdicts = field(default_factory=Verdicts)

    @cached_property
    def _split(self) -> tuple[list[EncodedExample], list[EncodedExample]]:
        return split_validation(self.rows, self.holdout, self.recipe.holdout_seed)

    @property
    def trained_rows(self) -> list[EncodedExample]:
        """Those that trials train on."""
        return self._split[0]

    @property
    def validation_rows(self) -> list[EncodedExample]:
        """Those that they are measured on."""
        return self._split[1]

    def of_repeat(self, number: int) -> "Bench":
        """The same with the validation rows of a repeat (heft.tune.repeats); itself for 0."""
        if number == 0:
            return self
        if number not in self._of_repeats:
            belong_to = [row.belongs_to for row in self.rows]
            order = order_for(number, belong_to, self.holdout, self.recipe.holdout_seed)
            rows = [self.rows[row] for row in order]
            self._of_repeats[number] = replace(self, rows=rows, counter=replace(self.counter, rows=rows))
        return self._of_repeats[number]

    @cached_property
    def _of_repeats(self) -> "dict[int, Bench]":
        return {}

    def _where(self, stage: Stage) -> "Bench":
        """Where a stage is trained: with the rows of its repeat, if it is of one."""
        return self.of_repeat(number_of(stage.seed, self.recipe.seed))

    @cached_property
    def _rows_are_packed(self) -> bool:
        """Whether rows of several lengths may run together, as configurations side by side do."""
        if not can_stand_side_by_side(self.base.model):
            return False
        return not padding_matters(self.base.model, self.base.tokenizer.pad_token_id, longest_of(self.rows))

    def groups(self, stages: Sequence[Stage]) -> list[list[int]]:
        """Numbers of stages that are trained side by side, then those of others, each alone.

        Side by side go stages of one method behind a prompt's prefix, which costs little more than one of them alone;
        those that act on all tokens would gain nothing. Their batches are equal, so that a step of each costs the same.
        """
        by_size: dict[int, list[int]] = {}
        for number, stage in enumerate(stages):
            if self._stands_beside_others(stage):
                by_size.setdefault(stage.batch_size, []).append(number)
        together = [numbers for numbers in by_size.values() if len(numbers) > 1]
        taken = {number for numbers in together for number in numbers}
        return [*together, *([number] for number in range(len(stages)) if number not in taken)]

    def _stands_beside_others(self, stage: Stage) -> bool:
        if why_not_swept(stage) or not stage.reuse or stage.gradient_checkpointing or not self._rows_are_packed:
            return False
        if stage.bf16:  # side by side trials are measured as they train, and alone in the model's own dtype
            return False
        return parse_positions(stage.positions).reach_back() is not None

    def train_on_top(
        self,
        before: Before | None,
        name: str,
        stages: Sequence[Stage],
        values: Sequence[dict],
        keeps: bool = False,
    ) -> list[Outcome]:
        """Train a stage called `name`, or several side by side (a group of `groups`), on top of what is before, and
        measure them. The model is left as it was; `keeps`: whether the trained weights are there for `weights_of`."""
        bench = self._where(stages[0])
        if len(stages) > 1:
            return bench._together(before, name, stages, values, keeps)
        return [bench._alone(before, name, stages[0], values[0], keeps)]

    def weights_of(self, name: str, stage: Stage) -> Mapping[str, torch.Tensor]:
        """The trained weights of a trial of one stage, by name: as they were kept, or else trained again."""
        key = key_of({name: stage})
        kept = self.weights.of(key)
        if kept is None:
            with gone_afterwards(self.base.model):
                self._where(stage).train_stage({name: stage}, name, stage)
                kept = _copied(adapter_parameters(self.base.model, [name]))
            self.weights.keep(key, kept)
        return kept

    def _alone(self, before: Before | None, name: str, stage: Stage, values: dict, keeps: bool) -> Outcome:
        started, tried = time.perf_counter(), self.verdicts.seconds
        stages = {**(before.stages if before else {}), name: stage}
        with gone_afterwards(self.base.model):
            self._attach(before)
            try:
                _, outcome = self.train_stage(stages, name, stage)
                training, measured = outcome.seconds, self.measure(stages)
                if keeps:
                    self.weights.keep(key_of(stages), _copied(adapter_parameters(self.base.model, [name])))
            except Diverged:
                training, measured = time.perf_counter() - started - (self.verdicts.seconds - tried), NOT_FINITE
        found = self._outcome(before, name, stage, values, measured)
        return replace(
            found,
            seconds=time.perf_counter() - started,
            trying_seconds=self.verdicts.seconds - tried,
            trained_seconds=training,
            training_seconds=training + found.prefix_seconds,
        )

    def _together(
        self, before: Before | None, name: str, stages: Sequence[Stage], values: Sequence[dict], keeps: bool
    ) -> list[Outcome]:
        started = time.perf_counter()
        below = before.stages if before else {}
        recipe = recipe_of_stages(self.recipe, {**below, name: stages[0]})
        tried = [
            Configuration(f"c{number:02}", own, stage)
            for number, (own, stage) in enumerate(zip(values, stages, strict=True))
        ]
        data = TrainingData(*self._split, self.base.tokenizer.pad_token_id)
        seeds = [recipe.stage_seed(name)] * len(tried)
        keys = [key_of({**below, name: stage}) for stage in stages]
        quiet = Reporters([Quiet(self.reporter), Logged(self.directory, keys)])
        with gone_afterwards(self.base.model):
            self._attach(before)
            kept = self._kept(below, name, stages)
            with side_by_side(self.base, tried, data, seeds, self.tokens_per_pass, quiet, kept) as training:
                took = training.train(name, quiet)
                measured = measured_together(
                    training, self.validation_rows, are_few(self.rows), recipe.evaluation.normalize
                )
                if keeps:
                    self._keep(keys, name, training.learners)
        found = [self._outcome(before, name, *about) for about in zip(stages, values, measured, strict=True)]
        trained = took.seconds - took.validating  # validation rows cost the same, however long trials are
        return self._shared_out(found, before, name, stages, trained, time.perf_counter() - started)

    def _keep(self, keys: Sequence[str], name: str, learners: Sequence[Learner]) -> None:
        """The trained weights of configurations side by side, named as in a stage of this name."""
        for key, learner in zip(keys, learners, strict=True):
            adapter = learner.configuration.adapter
            own = {each.replace(f".{adapter}.", f".{name}."): p for each, p in learner.parameters.items()}
            self.weights.keep(key, _copied(own))

    def _shared_out(
        self,
        found: Sequence[Outcome],
        before: Before | None,
        name: str,
        stages: Sequence[Stage],
        trained: float,
        seconds: float,
    ) -> list[Outcome]:
        """Outcomes with their shares of what they took together, by what the search would pay for each alone."""
        flops = self.counter.paid(before.stages if before else {}, name, stages)
        whole = sum(each.flops for each in found)
        return [
            replace(
                each,
                seconds=seconds * each.flops / whole,
                trained_seconds=trained * each.flops / whole,
                flops=flops * each.flops / whole,
                together=len(found),
            )
            for each in found
        ]

    def _outcome(self, before: Before | None, name: str, stage: Stage, values: dict, measured: Measured) -> Outcome:
        below = before.stages if before else {}
        stages = {**below, name: stage}
        flops, paid = self.counter.flops_alone(below, name, stage), self.counter.paid(below, name, [stage])
        prefix_seconds = self.prefix_seconds(stages)
        return Outcome(
            key=key_of(stages),
            kind=stage.method,
            stages=dumped(stages),
            values=values,
            loss=measured.loss,
            accuracy=measured.accuracy,
            row_losses=measured.row_losses,
            flops=paid,
            training_flops=flops,
            prefix_seconds=prefix_seconds,
            prefix_flops=flops - paid if prefix_seconds else 0.0,
            before_seconds=before.seconds if before else 0.0,
            before_flops=before.flops if before else 0.0,
            before_is_estimated=before is not None and before.is_estimated,
            behind=reach_back(name, stage) is not None,
            steps=stage.steps,
        )

    def train_stage(self, stages: Mapping[str, Stage], name: str, stage: Stage) -> tuple[int, StageOutcome]:
        """Train the last of these stages as `heft train` does.

        `heft train` measures the validation rows at the end; here trials are measured afterwards. So a stage gets the
        rows that it trains on alone, where it caches no activations of others with them.
        """
        heard = Reporters([Quiet(self.reporter), Logged(self.directory, [key_of(stages)])])
        rows = list(self.rows)
        below, _ = _parted(stages)
        kept = self._kept(below, name, [stage])
        if kept is not None:
            stage = stage.model_copy(update={"cache": kept.base.kind})
        if kept is not None or self.counter.alone(below, name, stage).reuse.kind == NOTHING:
            rows, stage = self.trained_rows, unmeasured(stage)
        loop = StageLoop(recipe_of_stages(self.recipe, stages), self.base, Data(rows, []), self.directory, heard)
        with remembered(self.verdicts):
            return loop.train_stage(name, stage, prefixes=kept)

    def _attach(self, before: Before | None) -> None:
        """Put the stage before on the model, trained and frozen."""
        if before is None:
            return
        weights = before.weights()  # which may have to be trained again, on the bare base
        finished = [each.without_start(finished=True) for each in adapters_of(before.name, before.stage)]
        attached = attach_adapters(self.base.model, before.name, finished, self.base.tokenizer)
        restore_weights(trained_parameters(self.base.model), weights)
        finish(self.base.model, attached)

    def measure(self, stages: Mapping[str, Stage]) -> Measured:
        """The model as it is, with these stages trained, on the validation rows."""
        below, name = _parted(stages)
        kept = self._kept(below, name, [stages[name]])
        pad_id = self.base.tokenizer.pad_token_id
        behind = kept and QuestionPrefixes(kept.base, self.base.model, kept.shared.start, pad_id)
        with remembered(self.verdicts):
            return measured_alone(self.base, self.recipe, self.validation_rows, are_few(self.rows), behind)

    def _kept(self, below: Mapping[str, Stage], name: str, stages: Sequence[Stage]) -> StagePrefixes | None:
        """The prefixes behind which these are trained; None where each computes its own."""
        start = self.counter.kept_start(below, name, stages)
        if start is None or self.prefixes is None:
            return None
        return StagePrefixes(SharedPrefix((name,), start, ROWS_PER_PASS), self.prefixes.base)

    def prefix_seconds(self, stages: Mapping[str, Stage]) -> float:
        """What the last of these stages takes for prefixes in a run of its own, where it finds them here."""
        below, name = _parted(stages)
        if self.prefixes is None or self.counter.kept_start(below, name, [stages[name]]) is None:
            return 0.0
        costs = self.counter.alone(below, name, stages[name])
        share = min(1.0, costs.planned_passes) * len(costs.rows) / len(self.rows)
        return 0.0 if costs.is_filled else share * self.prefixes.seconds


def _copied(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}


def _parted(stages: Mapping[str, Stage]) -> tuple[dict[str, Stage], str]:
    """All stages but the last one, and that one's name."""
    *below, name = stages
    return {each: stages[each] for each in below}, name
