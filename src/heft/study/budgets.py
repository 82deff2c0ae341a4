"""From budgets to recipes: how many steps each stage of each arm takes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil

from heft.costs.stage import StageCosts
from heft.errors import HeftError
from heft.recipe.files import dump_recipe
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Reporter
from heft.study.costing import Costing
from heft.study.files import Study
from heft.study.measure import seconds_a_step
from heft.study.scaling import Rate, scaled, total


@dataclass(frozen=True)
class ResolvedBudget:
    """What an arm's budget came to.

    Attributes:
        kind: "steps", "flops", "spent_flops" or "seconds".
        amount: what the arm may cost.
        reached: what it costs in the whole steps that it takes.
        steps: of each stage.
        fingerprint: 16 hex digits of what this follows from; a study that goes on takes what it had found for the same.
    """

    kind: str
    amount: float
    reached: float
    steps: dict[str, int]
    fingerprint: str

    def to_dict(self) -> dict:
        """For study.json."""
        return asdict(self)

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with stages of that many steps."""
        return _of_length(recipe, self.steps)


class Budgets:
    """Finds each arm's grant; arms are counted, and measured where seconds are asked for, only as needed.

    Args:
        study: whose arms these are.
        known: what an earlier call wrote to study.json, by arm.
        reporter: is told what is being done.
    """

    def __init__(self, study: Study, known: Mapping[str, dict], reporter: Reporter):
        self._study, self._known, self._reporter = study, known, reporter
        self._costing = Costing()
        self._rates: dict[tuple[str, str], list[Rate]] = {}

    def grant(self, arm: str) -> ResolvedBudget | None:
        """What an arm's budget comes to; None where it has none.

        Raises:
            HeftError: the arm, or the one whose cost is its budget, cannot be counted.
        """
        budget = self._study.settings.budget_of(arm)
        if budget is None:
            return None
        fingerprint = self._fingerprint(arm)
        known = self._known.get(arm)
        if known is not None and known.get("fingerprint") == fingerprint:
            return ResolvedBudget(**known)
        target = budget.amount(budget.kind)
        target = self._cost_of_other(budget.other, budget.kind) if target is None else target
        recipe, rates = self._study.recipes[arm], self._rates_of(arm, budget.kind)
        steps = scaled(self._costing.steps(recipe), rates, target)
        named = dict(zip(recipe.stages, steps, strict=True))
        return ResolvedBudget(budget.kind, float(target), float(total(rates, steps)), named, fingerprint)

    def needs_measuring(self, arm: str) -> bool:
        """Whether an arm's grant, or the one that it follows from, asks for seconds."""
        budget = self._study.settings.budget_of(arm)
        if budget is None:
            return False
        return budget.kind == "seconds" or (budget.other is not None and self.needs_measuring(budget.other))

    def costs(self, recipe: Recipe) -> list[StageCosts]:
        """What the stages of a recipe cost.

        Raises:
            HeftError: they cannot be counted.
        """
        return self._costing.stages(recipe)

    def _cost_of_other(self, arm: str, kind: str) -> float:
        """What an arm will cost whose cost is another's budget; its own budget applied."""
        try:
            grant = self.grant(arm)
            steps = self._costing.steps(self._study.recipes[arm]) if grant is None else list(grant.steps.values())
            return total(self._rates_of(arm, kind), steps)
        except Exception as error:
            raise HeftError(f"its budget is what arm {arm!r} takes, which cannot be told: {in_words(error)}") from error

    def _rates_of(self, arm: str, kind: str) -> list[Rate]:
        if (arm, kind) not in self._rates:
            self._rates[arm, kind] = self._new_rates(self._study.recipes[arm], arm, kind)
        return self._rates[arm, kind]

    def _new_rates(self, recipe: Recipe, arm: str, kind: str) -> list[Rate]:
        if kind == "steps":
            return [Rate(1.0, 1.0, 1)] * len(recipe.stages)
        # what is kept pays from the second epoch on, and in the first it costs what not keeping does: so counting as
        # if rows came more than once is right for any number of steps
        often = {name: 2 * _epoch(stage) for name, stage in zip(recipe.stages, self.costs(recipe), strict=True)}
        stages = self.costs(_of_length(recipe, often))
        if kind == "seconds":
            self._reporter.note(f"measuring a few steps of {arm}")
            return seconds_a_step(recipe, stages)
        return [_flops_a_step(stage, spent=kind == "spent_flops") for stage in stages]

    def _fingerprint(self, arm: str) -> str:
        budget, recipes = self._study.settings.budget_of(arm), self._study.recipes
        parts = [budget.model_dump(), dump_recipe(recipes[arm])]
        if budget.other is not None:
            own = self._study.settings.budget_of(budget.other)
            parts += [dump_recipe(recipes[budget.other]), own and own.model_dump()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def require_some(study: Study, failed: Mapping[str, str]) -> None:
    """See that an arm is left to be run.

    Args:
        study: whose arms they are.
        failed: why an arm cannot be run, for those that cannot.

    Raises:
        HeftError: none is left; why, for each.
    """
    if len(failed) == len(study.recipes):
        raise HeftError("\n".join([f"no arm of {study.path} can be run:", *reasons(failed)]))


def reasons(failed: Mapping[str, str]) -> list[str]:
    """Why arms cannot be run, a text for each reason."""
    arms_by_error: dict[str, list[str]] = {}
    for arm, error in failed.items():
        arms_by_error.setdefault(error, []).append(arm)
    return [f"{', '.join(arms)}: {error}" for error, arms in arms_by_error.items()]


def _flops_a_step(stage: StageCosts, spent: bool) -> Rate:
    epoch = _epoch(stage)
    first = (stage.flops(1) if spent else stage.plain_flops(1)) / epoch
    return Rate(first, stage.flops(2) / epoch - first if spent else first, epoch)


def _epoch(stage: StageCosts) -> int:
    """Steps in which a stage's rows are seen once."""
    return ceil(len(stage.rows) / stage.stage.batch_size)


def _of_length(recipe: Recipe, steps: Mapping[str, int]) -> Recipe:
    """A recipe with stages of so many steps."""
    stages = {
        name: stage.model_copy(update={"steps": steps[name], "epochs": None}) for name, stage in recipe.stages.items()
    }
    return recipe.model_copy(update={"stages": stages})


def in_words(error: Exception) -> str:
    """What went wrong, for people; with its kind where it is none of heft's own errors."""
    return str(error) if isinstance(error, HeftError) else f"{type(error).__name__}: {error}"
