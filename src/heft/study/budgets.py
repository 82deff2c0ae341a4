"""From budgets to recipes: how many steps each stage of each arm takes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
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
from heft.tasks import load_examples
from heft.tasks.example import content_hash


@dataclass(frozen=True)
class ResolvedBudget:
    """An arm's budget in whole steps.

    Attributes:
        kind: "steps", "flops", "spent_flops" or "seconds".
        amount: what the arm may cost.
        reached: what it costs in whole steps.
        steps: of each stage.
        fingerprint: 16 hex digits of the settings that this follows from; a study that is resumed reuses what has the
            same, and the same rows.
        rows: likewise of the training rows; empty where they could not be read, or were not looked at.
    """

    kind: str
    amount: float
    reached: float
    steps: dict[str, int]
    fingerprint: str
    rows: str = ""


class Budgets:
    """Resolves the budget of each arm; arms are counted, and measured where seconds are asked for, only as needed.

    `known` is what an earlier call resolved, by arm.
    """

    def __init__(self, study: Study, known: Mapping[str, ResolvedBudget], reporter: Reporter):
        self._study, self._known, self._reporter = study, known, reporter
        self.costing = Costing()
        self._rates: dict[tuple[str, str], list[Rate]] = {}
        self._rows: dict[str, str] = {}

    def resolve(self, arm: str) -> ResolvedBudget | None:
        """An arm's budget in whole steps; None where it has none.

        Raises:
            HeftError: the arm, or the one whose cost is its budget, cannot be counted.
        """
        budget = self._study.settings.budget_of(arm)
        if budget is None:
            return None
        fingerprint, rows = self._fingerprint(arm), self._rows_of(arm, budget.other)
        known = self._known.get(arm)
        if known is not None and known.fingerprint == fingerprint and ("" in (rows, known.rows) or rows == known.rows):
            return known
        target = self._cost_of_other(budget.other, budget.kind) if budget.amount is None else budget.amount
        recipe, rates = self._study.recipes[arm], self._rates_of(arm, budget.kind)
        steps = scaled(self.costing.steps(recipe), rates, target)
        named = dict(zip(recipe.stages, steps, strict=True))
        return ResolvedBudget(budget.kind, float(target), float(total(rates, steps)), named, fingerprint, rows)

    def needs_measuring(self, arm: str) -> bool:
        """Whether an arm's budget, or the one that it follows from, is in seconds."""
        budget = self._study.settings.budget_of(arm)
        if budget is None:
            return False
        return budget.kind == "seconds" or (budget.other is not None and self.needs_measuring(budget.other))

    def _cost_of_other(self, arm: str, kind: str) -> float:
        """What an arm costs, its own budget applied, where that is the budget of another."""
        try:
            budget = self.resolve(arm)
            steps = self.costing.steps(self._study.recipes[arm]) if budget is None else list(budget.steps.values())
            return total(self._rates_of(arm, kind), steps)
        except Exception as error:
            raise HeftError(
                f"its budget is what arm {arm!r} takes, which cannot be computed: {in_words(error)}"
            ) from error

    def _rates_of(self, arm: str, kind: str) -> list[Rate]:
        if (arm, kind) not in self._rates:
            self._rates[arm, kind] = self._new_rates(self._study.recipes[arm], arm, kind)
        return self._rates[arm, kind]

    def _new_rates(self, recipe: Recipe, arm: str, kind: str) -> list[Rate]:
        if kind == "steps":
            return [Rate(1.0, 1.0, 1)] * len(recipe.stages)
        # a cache pays from the second epoch on and costs nothing extra in the first, so counting as if rows came more
        # than once is right for any number of steps
        stages = self.costing.stages(recipe)
        pairs = zip(recipe.stages, stages, strict=True)
        often = {name: 2 * _epoch(stage) for name, stage in pairs if not stage.stage.is_frozen}
        stages = self.costing.stages(of_length(recipe, often))
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

    def _rows_of(self, *arms: str | None) -> str:
        """Stands for the training rows of arms, as they are now; empty where they cannot be read."""
        found = []
        for task in (self._study.recipes[arm].task for arm in arms if arm is not None):
            key = repr(task)
            if key not in self._rows:
                try:
                    self._rows[key] = content_hash([example.id for example in load_examples(task, "train")])
                except HeftError:  # said where they are needed
                    self._rows[key] = ""
            found.append(self._rows[key])
        return content_hash(found) if all(found) else ""


def require_some(study: Study, failed: Mapping[str, str]) -> None:
    """Raise a HeftError where no arm is left to run, with the reason for each."""
    if len(failed) == len(study.recipes):
        raise HeftError("\n".join([f"no arm of {study.path} can be run:", *reasons(failed)]))


def reasons(failed: Mapping[str, str]) -> list[str]:
    """Why arms cannot be run, one text per reason."""
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


def of_length(recipe: Recipe, steps: Mapping[str, int]) -> Recipe:
    """A recipe whose stages of these names take these steps."""
    changed = {
        name: recipe.stages[name].model_copy(update={"steps": count, "epochs": None}) for name, count in steps.items()
    }
    return recipe.model_copy(update={"stages": recipe.stages | changed})


def in_words(error: Exception) -> str:
    """An error for people; with its type where it is not one of heft's own."""
    return str(error) if isinstance(error, HeftError) else f"{type(error).__name__}: {error}"
