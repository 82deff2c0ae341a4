"""What a trial will cost, in FLOPs by counting and in seconds by what earlier trials took; so how long it may be."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, floor

from transformers import PreTrainedModel

from heft.costs.rows import prefix_row
from heft.costs.shapes import NO_SHAPE
from heft.costs.skeleton import skeleton_of
from heft.costs.stage import StageCosts, stage_costs
from heft.data.encode import EncodedExample
from heft.data.validation import split_validation
from heft.errors import HeftError
from heft.recipe.grid import Configuration
from heft.recipe.recipe import Recipe, ReftStage, Stage
from heft.study.scaling import Rate
from heft.sweep.costs import side_by_side_costs
from heft.training.reuse.plan import PREFIXES
from heft.training.reuse.shared import reach_back
from heft.tune.kept import start_behind
from heft.tune.ledger import Ledger
from heft.tune.trial import Outcome, recipe_of_stages

LEAST_STEPS = 8
"""Optimizer steps of the shortest trial: fewer say little of a learning rate."""
_RECENT = 12
"""Finished trials of a kind from which its speed is taken."""


@dataclass
class Counter:
    """Counts FLOPs of training, as `heft plan` does.

    Attributes:
        recipe: the one that is searched; its stages do not matter.
        rows: all training rows, validation rows among them.
        tokens_per_pass: of configurations side by side.
        keeps_prefixes: whether the base's prefixes are there for all trials (heft.tune.kept).
    """

    recipe: Recipe
    rows: Sequence[EncodedExample]
    tokens_per_pass: int
    keeps_prefixes: bool = False
    _rates: dict[str, Rate] = field(default_factory=dict)
    _base: PreTrainedModel | None = None
    _trained: dict[float, int] = field(default_factory=dict, init=False)

    def alone(self, before: Mapping[str, Stage], name: str, stage: Stage) -> StageCosts:
        """Of a stage on top of others, in a run of its own.

        Raises:
            HeftError: the model cannot be counted.
        """
        recipe = recipe_of_stages(self.recipe, {**before, name: stage})
        costs = stage_costs(recipe, name, self.rows)
        if costs.shape.costs is None:
            raise HeftError(f"heft tune counts FLOPs to plan its trials, and cannot here: {costs.shape.uncounted}")
        return costs

    def flops_alone(self, before: Mapping[str, Stage], name: str, stage: Stage) -> float:
        """FLOPs of a stage with the length that it has."""
        costs = self.alone(before, name, stage)
        return costs.flops(costs.planned_passes)

    def prefix_flops(self, name: str, stage: Stage, lacks: int) -> float:
        """FLOPs of all rows' prefixes up to so many tokens from a prompt's end, on which the stage does not act."""
        costs = self.alone({}, name, stage).shape.costs
        return sum(prefix_row(costs, row, lacks) for row in self.rows if len(row.prompt) > lacks)

    def flops_together(
        self, before: Mapping[str, Stage], name: str, stages: Sequence[ReftStage], kept: int | None
    ) -> float:
        """FLOPs of stages that are trained side by side; `kept` as for `side_by_side_costs`."""
        recipe = recipe_of_stages(self.recipe, {**before, name: stages[0]})
        tried = [Configuration(f"c{number:02}", {}, stage) for number, stage in enumerate(stages)]
        if self._base is None:
            self._base = skeleton_of(recipe, None)
        return side_by_side_costs(recipe, tried, self.rows, self._base, self.tokens_per_pass, kept).flops()

    def rate(self, before: Mapping[str, Stage], name: str, stages: Sequence[Stage]) -> Rate:
        """FLOPs a step of a stage, or of several side by side, in the first epoch and after it; their own lengths do
        not matter."""
        looks = [each.model_dump(mode="json", exclude=NO_SHAPE) for each in (*before.values(), *stages)]
        key = json.dumps([name, len(stages), self.epoch(stages[0]), stages[0].batch_size, looks])
        if key not in self._rates:
            self._rates[key] = self._new_rate(before, name, stages)
        return self._rates[key]

    def _new_rate(self, before: Mapping[str, Stage], name: str, stages: Sequence[Stage]) -> Rate:
        epoch = self.epoch(stages[0])

        def flops(steps: int) -> float:
            long = [stage.model_copy(update={"steps": steps, "epochs": None}) for stage in stages]
            return self.paid(before, name, long)

        first, both = flops(epoch), flops(2 * epoch)
        return Rate(first / epoch, (both - first) / epoch, epoch)

    def paid(self, before: Mapping[str, Stage], name: str, stages: Sequence[Stage]) -> float:
        """FLOPs of a stage, or of several side by side, that are trained on top of others which are there already.

        A prefix that a run's stages would share is computed anew, where the search keeps none.
        """
        apart = {each: stage.model_copy(update={"reuse": False}) for each, stage in before.items()}
        kept = self.kept_start(before, name, stages)
        if len(stages) > 1:
            return self.flops_together(apart, name, stages, kept)
        costs = self.alone(apart, name, stages[0])
        if kept is not None and costs.reuse.kind == PREFIXES:
            costs = replace(costs, reuse=replace(costs.reuse, start=kept, store="memory"), is_filled=True)
        return costs.flops(costs.planned_passes)

    def kept_start(self, before: Mapping[str, Stage], name: str, stages: Sequence[Stage]) -> int | None:
        """As `start_behind`; None too where no prefixes are kept."""
        return start_behind(before, name, stages) if self.keeps_prefixes else None

    def epoch(self, stage: Stage) -> int:
        """Steps in which the rows that are trained on are seen once."""
        if stage.holdout not in self._trained:
            split = split_validation(self.rows, stage.holdout, self.recipe.holdout_seed)
            self._trained[stage.holdout] = len(split[0])
        return ceil(self._trained[stage.holdout] / stage.batch_size)


@dataclass(frozen=True)
class Prices:
    """Costs in the budget's unit.

    Attributes:
        unit: "seconds" or "flops".
        counter: of FLOPs.
        ledger: of what was measured.
        most_epochs: that a stage may take.
    """

    unit: str
    counter: Counter
    ledger: Ledger
    most_epochs: float

    def steps_within(self, amount: float, before: Mapping[str, Stage], name: str, stages: Sequence[Stage]) -> int:
        """Optimizer steps that a stage, or each of several side by side, can take for an amount; 0 where it does not
        pay for one."""
        rate = self.counter.rate(before, name, stages)
        flop, beside = 1.0, 0.0
        if self.unit == "seconds":
            behind = reach_back(name, stages[0]) is not None
            flop, beside = self.speed(stages[0].method, behind, len(stages) > 1, stages[0].batch_size)
        low, high = 0, max(LEAST_STEPS, floor(self.most_epochs * rate.epoch))
        while low < high:
            middle = (low + high + 1) // 2
            pays = rate.cost(middle) * flop + beside * len(stages) <= amount * (1 + 1e-12)
            low, high = (middle, high) if pays else (low, middle - 1)
        return low

    def speed(self, method: str, behind: bool, together: bool, batch_size: int) -> tuple[float, float]:
        """Seconds a FLOP of training, and seconds beside training of each configuration, as lately measured; without
        what is done once for trials of a kind.

        One kind that was not measured is taken to be as fast as the nearest that was: of the method, or of LoRA; of
        trials that took all of their steps, as those that diverged did not; of as few tokens a step, which take longer
        for each FLOP; side by side or not; of batches of this size.
        """
        nearest = [each for each in self.ledger.outcomes.values() if each.flops > 0]
        if not any(each.kind == method for each in nearest):
            method = "lora"
        for is_alike in (
            lambda each: each.kind == method,
            lambda each: not each.diverged,
            lambda each: each.behind == behind,
            lambda each: (each.together > 1) == together,
            lambda each: each.batch_size == batch_size,
        ):
            nearest = [each for each in nearest if is_alike(each)] or nearest
        recent = nearest[-_RECENT:]
        assert recent, f"no trial of {method} was measured"
        trained = sum(each.trained_seconds for each in recent)
        rest = sum(each.seconds - each.trained_seconds - each.trying_seconds for each in recent)
        return trained / sum(each.flops for each in recent), rest / len(recent)

    def of_last_stage(self, outcome: Outcome) -> float:
        """What training a trial's last stage alone costs."""
        return outcome.training_flops if self.unit == "flops" else self.seconds_alone(outcome)

    def seconds_alone(self, outcome: Outcome) -> float:
        """Seconds of training a trial's last stage alone; estimated where it was not trained alone."""
        if outcome.training_seconds is not None:
            return outcome.training_seconds
        flop, _ = self.speed(outcome.kind, outcome.behind, together=False, batch_size=outcome.batch_size)
        return (outcome.training_flops - outcome.prefix_flops) * flop + outcome.prefix_seconds

    def of_whole(self, outcome: Outcome) -> float:
        """What training a trial's recipe costs, all stages."""
        before = outcome.before_flops if self.unit == "flops" else outcome.before_seconds
        return before + self.of_last_stage(outcome)
