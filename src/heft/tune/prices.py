"""What a trial will cost, in FLOPs by counting and in seconds by what earlier trials took; so how long it may be."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor

from transformers import PreTrainedModel

from heft.costs.skeleton import skeleton_of
from heft.costs.stage import Shape, StageCosts, shape_of, stage_costs
from heft.data.encode import EncodedExample
from heft.errors import HeftError
from heft.recipe.grid import Configuration
from heft.recipe.recipe import Recipe, ReftStage, Stage
from heft.recipe.training import TrainingSettings, validation_rows_of
from heft.study.scaling import Rate
from heft.sweep.costs import side_by_side_costs
from heft.tune.ledger import Ledger
from heft.tune.trial import Outcome, recipe_of_stages

LEAST_STEPS = 8
"""Optimizer steps of the shortest trial: fewer say little of a learning rate."""
_RECENT = 12
"""Finished trials of a kind from which its speed is taken."""
_LENGTH = TrainingSettings.model_fields.keys()


@dataclass
class Counter:
    """Counts FLOPs of training, as `heft plan` does; each distinct set of adapters is looked at once.

    Attributes:
        recipe: the one that is searched; its stages do not matter.
        rows: all training rows, validation rows among them.
        tokens_per_pass: of configurations side by side.
    """

    recipe: Recipe
    rows: Sequence[EncodedExample]
    tokens_per_pass: int
    _shapes: dict[str, Shape] = field(default_factory=dict)
    _behind: dict[str, dict[str, Shape]] = field(default_factory=dict)
    _base: PreTrainedModel | None = None

    def alone(self, before: Mapping[str, Stage], name: str, stage: Stage) -> StageCosts:
        """Of a stage on top of others, in a run of its own.

        Raises:
            HeftError: the model cannot be counted.
        """
        recipe = recipe_of_stages(self.recipe, {**before, name: stage})
        looks = [[each, of.method, of.model_dump(mode="json", exclude=_LENGTH)] for each, of in recipe.stages.items()]
        key = json.dumps(looks)
        if key not in self._shapes:
            self._shapes[key] = shape_of(skeleton_of(recipe, name), recipe.model.attention)
        shape = self._shapes[key]
        if shape.costs is None:
            raise HeftError(f"heft tune counts FLOPs to plan its trials, and cannot here: {shape.uncounted}")
        return stage_costs(recipe, name, self.rows, shape)

    def flops_alone(self, before: Mapping[str, Stage], name: str, stage: Stage) -> float:
        """FLOPs of a stage with the length that it has."""
        costs = self.alone(before, name, stage)
        return costs.flops(costs.planned_passes)

    def flops_together(self, before: Mapping[str, Stage], name: str, stages: Sequence[ReftStage]) -> float:
        """FLOPs of stages that are trained side by side."""
        recipe = recipe_of_stages(self.recipe, {**before, name: stages[0]})
        tried = [Configuration(f"c{number:02}", {}, stage) for number, stage in enumerate(stages)]
        if self._base is None:
            self._base = skeleton_of(recipe, None)
        looks = [of.model_dump(mode="json", exclude=_LENGTH) for of in before.values()]
        shapes = self._behind.setdefault(json.dumps(looks), {})
        return side_by_side_costs(recipe, tried, self.rows, self._base, self.tokens_per_pass, shapes).flops()

    def rate(self, before: Mapping[str, Stage], name: str, stages: Sequence[Stage], together: bool) -> Rate:
        """FLOPs a step of all stages, whose lengths do not matter, in the first epoch and after it."""
        epoch = self.epoch(stages[0])

        def flops(steps: int) -> float:
            long = [stage.model_copy(update={"steps": steps, "epochs": None}) for stage in stages]
            if together:
                return self.flops_together(before, name, long)
            return sum(self.flops_alone(before, name, stage) for stage in long)

        first, both = flops(epoch), flops(2 * epoch)
        return Rate(first / epoch, (both - first) / epoch, epoch)

    def epoch(self, stage: Stage) -> int:
        """Steps in which the rows that are trained on are seen once."""
        trained = len(self.rows) - validation_rows_of(stage.holdout, len(self.rows))
        return ceil(trained / stage.batch_size)


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

    def steps_within(
        self, amount: float, before: Mapping[str, Stage], name: str, stages: Sequence[Stage], together: bool
    ) -> int:
        """Optimizer steps that all these stages can take for an amount together; 0 where it does not pay for one."""
        rate = self.counter.rate(before, name, stages, together)
        flops = self._flops_for(amount, stages[0].method, len(stages), together)
        cap = max(LEAST_STEPS, floor(self.most_epochs * rate.epoch))
        return max(0, min(cap, _steps_for(rate, flops)))

    def _flops_for(self, amount: float, method: str, number: int, together: bool) -> float:
        """FLOPs of training that so many configurations get for an amount."""
        if self.unit == "flops":
            return amount
        rate, overhead = self.speed(method, together)
        return (amount - overhead * number) / rate

    def speed(self, method: str, together: bool) -> tuple[float, float]:
        """Seconds a FLOP of training, and seconds beside training of each configuration, as lately measured.

        One kind that was not measured is taken to be as fast as the method is otherwise, or as LoRA is.
        """
        measured = [each for each in self.ledger.outcomes.values() if each.flops > 0]
        of_method = [each for each in measured if each.kind == method] or [e for e in measured if e.kind == "lora"]
        same = [each for each in of_method if (each.together > 1) == together]
        recent = (same or of_method)[-_RECENT:]
        assert recent, f"no trial of {method} was measured"
        trained = sum(each.trained_seconds for each in recent)
        rest = sum(each.seconds - each.trained_seconds for each in recent)
        return trained / sum(each.flops for each in recent), rest / len(recent)

    def of_last_stage(self, outcome: Outcome) -> float:
        """What training a trial's last stage alone costs; seconds are estimated where it was not trained alone."""
        if self.unit == "flops":
            return outcome.training_flops
        if outcome.training_seconds is not None:
            return outcome.training_seconds
        return outcome.training_flops * self.speed(outcome.kind, together=False)[0]

    def of_whole(self, outcome: Outcome) -> float:
        """What training a trial's recipe costs, all stages."""
        before = outcome.before_flops if self.unit == "flops" else outcome.before_seconds
        return before + self.of_last_stage(outcome)


def _steps_for(rate: Rate, flops: float) -> int:
    """Whole steps that cost at most so much."""
    within = rate.first * rate.epoch
    if flops <= within:
        return floor(flops / rate.first * (1 + 1e-12))
    return floor((rate.epoch + (flops - within) / rate.later) * (1 + 1e-12))
