"""Second stages at the forks of a coarse stage, and the fork from which the search of second stages goes on.

The forks are LoRA's own trials: those of one candidate, each longer than the one before and a whole stage of a recipe.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from heft.tune.halving import Contender, best_of
from heft.tune.ledger import Account
from heft.tune.news import offer_in_words, switch_in_words
from heft.tune.planner import Plan, Planner
from heft.tune.prices import LEAST_STEPS
from heft.tune.space import Candidate
from heft.tune.switch import Offer, switch_of
from heft.tune.trial import FINE, Outcome
from heft.tune.weights import Before

FEW = 4
"""Second stages that are tried at a fork."""


@dataclass
class Forks:
    """A coarse stage of several lengths, and what second stages offer behind each.

    Attributes:
        planner: plans and trains them.
        account: of the arm.
        coarse: the candidate of the coarse stage.
        trials: of it, rising in steps; none diverged.
        second: candidates of second stages, the likeliest first.
        amount: what those at one fork may cost.
        offers: what was found so far.
    """

    planner: Planner
    account: Account
    coarse: Candidate
    trials: Sequence[Outcome]
    second: Sequence[Candidate]
    amount: float
    offers: list[Offer] = field(default_factory=list)

    def switch(self) -> Generator[None, None, Before]:
        """Try a few short second stages at each fork; returns the stage at the fork where the switch is."""
        for number in range(len(self.trials)):
            self._offer(number, self._best_at(number))
            yield
        number = switch_of(self.offers)
        self.planner.say(switch_in_words(self.account, self.offers[number]))
        return self.planner.before(self.coarse, self.trials[number])

    def _best_at(self, number: int) -> Outcome | None:
        """The best of a few short second stages at a fork; None where all diverged."""
        before, few = self.planner.before(self.coarse, self.trials[number]), self.second[:FEW]
        plan = self.planner.ledger.decided(
            f"{self.account.arm}: fork {number + 1}", lambda: self._short_plan(before, few, number)
        )
        outcomes = self.planner.train(before, FINE, [few[place] for place in plan["numbers"]], plan["steps"])
        self.account.pay(outcomes)
        return best_of(outcomes)

    def _short_plan(self, before: Before, few: Sequence[Candidate], number: int) -> Plan:
        """As long as the amount pays for, but none that costs more than the coarse stage before it."""
        prices = self.planner.prices
        plan = self.planner.plan(self.amount, before, FINE, list(map(Contender, few)), len(few), 1)
        if not plan["numbers"]:  # the shortest that says anything
            plan = {"numbers": [0], "steps": [LEAST_STEPS]}
        coarse = prices.of_last_stage(self.trials[number])
        most = [
            prices.steps_within(coarse, before.stages, FINE, [self.planner.sized(few[place], LEAST_STEPS)])
            for place in plan["numbers"]
        ]
        steps = [max(LEAST_STEPS, min(pair)) for pair in zip(plan["steps"], most, strict=True)]
        return {"numbers": plan["numbers"], "steps": steps}

    def _offer(self, number: int, fine: Outcome | None) -> None:
        prices, here = self.planner.prices, self.trials[number]
        after = self.trials[number + 1] if number + 1 < len(self.trials) else None

        def offer() -> dict[str, Any]:  # stays as it was: speeds that it rests on are measured anew all the time
            return {
                "step": here.steps,
                "loss": here.loss,
                "coarse_loss": after.loss if after else None,
                "coarse_cost": prices.of_last_stage(after) - prices.of_last_stage(here) if after else None,
                "fine_loss": fine.loss if fine else None,
                "fine_cost": prices.of_last_stage(fine) if fine else None,
            }

        found = Offer(**self.planner.ledger.decided(f"{self.account.arm}: switch at step {here.steps}", offer))
        self.offers.append(found)
        self.planner.say(offer_in_words(self.account, found))
