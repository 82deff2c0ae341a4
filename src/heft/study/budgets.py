"""From budgets to recipes: how many steps each stage of each arm takes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from heft.errors import HeftError
from heft.plan.planner import Plan, make_plan
from heft.recipe import Recipe
from heft.recipe_io import dump_recipe
from heft.reporter import Reporter
from heft.study.files import Study
from heft.study.measure import seconds_a_step
from heft.study.scaling import Rate, scaled, total


@dataclass(frozen=True)
class Grant:
    """What an arm's budget came to.

    Attributes:
        kind: "steps", "flops" or "seconds".
        amount: what the arm may cost.
        reached: what it costs in the whole steps that it takes.
        steps: of each stage.
        made_of: 16 hex digits of what this follows from; a study that goes on takes what it had found for the same.
    """

    kind: str
    amount: float
    reached: float
    steps: dict[str, int]
    made_of: str

    def to_dict(self) -> dict:
        """For study.json."""
        return asdict(self)

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with stages of that many steps."""
        stages = {
            name: stage.model_copy(update={"steps": self.steps[name], "epochs": None})
            for name, stage in recipe.stages.items()
        }
        return recipe.model_copy(update={"stages": stages})


class Budgets:
    """Finds each arm's grant; arms are planned, and measured where seconds are asked for, only as needed.

    Args:
        study: whose arms these are.
        known: what an earlier call wrote to study.json, by arm.
        reporter: is told what is being done.
    """

    def __init__(self, study: Study, known: Mapping[str, dict], reporter: Reporter):
        self._study, self._known, self._reporter = study, known, reporter
        self._plans: dict[str, Plan] = {}
        self._rates: dict[tuple[str, str], list[Rate]] = {}

    def grant(self, arm: str) -> Grant | None:
        """What an arm's budget comes to; None where it has none.

        Raises:
            HeftError: an arm's data or config cannot be had.
        """
        budget = self._study.settings.budget_of(arm)
        if budget is None:
            return None
        made_of = self._made_of(arm)
        known = self._known.get(arm)
        if known is not None and known.get("made_of") == made_of:
            return Grant(**known)
        target = budget.amount(budget.kind)
        target = self._cost(budget.other, budget.kind) if target is None else target
        rates = self._rates_of(arm, budget.kind)
        steps = scaled([stage.steps for stage in self.plan(arm).stages], rates, target)
        named = dict(zip(self._study.recipes[arm].stages, steps, strict=True))
        return Grant(budget.kind, float(target), float(total(rates, steps)), named, made_of)

    def needs_measuring(self, arm: str) -> bool:
        """Whether an arm's grant, or the one that it follows from, asks for seconds."""
        budget = self._study.settings.budget_of(arm)
        if budget is None:
            return False
        return budget.kind == "seconds" or (budget.other is not None and self.needs_measuring(budget.other))

    def plan(self, arm: str) -> Plan:
        """The plan of an arm as it was written."""
        if arm not in self._plans:
            try:
                self._plans[arm] = make_plan(self._study.recipes[arm], self._reporter, probe_seconds=0)
            except HeftError as error:
                raise HeftError(f"arm {arm!r}: {error}") from None
        return self._plans[arm]

    def _cost(self, arm: str, kind: str) -> float:
        """What an arm will cost, its own budget applied."""
        grant = self.grant(arm)
        steps = [stage.steps for stage in self.plan(arm).stages] if grant is None else list(grant.steps.values())
        return total(self._rates_of(arm, kind), steps)

    def _rates_of(self, arm: str, kind: str) -> list[Rate]:
        if (arm, kind) not in self._rates:
            plan = self.plan(arm)
            if kind == "seconds":
                self._reporter.note(f"measuring a few steps of {arm}")
                rates = seconds_a_step(self._study.recipes[arm], plan)
            else:
                each = [1.0 if kind == "steps" else stage.plain_flops / stage.steps for stage in plan.stages]
                rates = [Rate(cost, cost, 1) for cost in each]
            self._rates[arm, kind] = rates
        return self._rates[arm, kind]

    def _made_of(self, arm: str) -> str:
        budget, recipes = self._study.settings.budget_of(arm), self._study.recipes
        parts = [budget.model_dump(), dump_recipe(recipes[arm])]
        if budget.other is not None:
            own = self._study.settings.budget_of(budget.other)
            parts += [dump_recipe(recipes[budget.other]), own and own.model_dump()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
