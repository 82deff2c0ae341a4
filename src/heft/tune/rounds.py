"""The rounds of one arm's search: fewer and longer trials in each."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from heft.tune.halving import Contender, best_of, going_on
from heft.tune.ledger import Account
from heft.tune.news import round_in_words, too_little_in_words
from heft.tune.planner import Plan, Planner
from heft.tune.prices import LEAST_STEPS
from heft.tune.space import Candidate, with_rates_beyond
from heft.tune.trial import Outcome
from heft.tune.weights import Before

ROUNDS_OF_LENGTH = 3
"""Beyond those of halving, for what was better when it trained for less."""
RATES_BEYOND = 2
"""Times in a round that a rate beyond the lowest or the highest is tried."""
BEYOND_SHARE = 1 / 3
"""Of what rounds have left, what that may cost each time."""


@dataclass
class Rounds:
    """Rounds of trials, each trained when it is first asked for, and paid by the account.

    Each gets an equal part of what is left beyond the reserve. A candidate that was better when it trained for less, or
    cannot train for more, has lengths around that one in its next rounds, of which there are some more. Where the best
    of a round of halving has the lowest or the highest rate of all, one beyond that is tried with as many steps.

    Attributes:
        planner: plans and trains them.
        account: of the arm.
        before: the stage that is there already.
        name: of the stage that is tried.
        tried: its candidates, the likeliest first.
        reserve: of the account, what rounds leave.
        kept: of how many first rounds the trained weights are kept, to build on.
        had: all that have had a trial.
    """

    planner: Planner
    account: Account
    before: Before | None
    name: str
    tried: Sequence[Candidate]
    reserve: float
    kept: int = 0
    had: list[Contender] = field(default_factory=list)
    _done: list[list[tuple[Candidate, Outcome]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._alive, self._most = [Contender(each) for each in self.tried], self.planner.tune.configurations

    def planned(self) -> list[int]:
        """The numbers of the candidates in the first round, which need not be trained for that."""
        return self._planned(0)["numbers"]

    def trials(self, number: int) -> list[tuple[Candidate, Outcome]]:
        """Those of a round, from 0; none after the last one, or where the budget does not pay for it."""
        while len(self._done) <= number:
            if self._done and not self._done[-1]:
                return []
            self._done.append(self._next())
        return self._done[number]

    def _next(self) -> list[tuple[Candidate, Outcome]]:
        rung, tune = len(self._done), self.planner.tune
        if rung == tune.rungs + ROUNDS_OF_LENGTH:
            return []
        tried = self._train(rung)
        if not tried:
            if rung == 0:
                self.planner.say(too_little_in_words(self.account, "no trial"))
            return []
        self.had += [each for each in tried if len(each.trials) == 1]
        beyond = self._with_rates_beyond(rung, tried) if rung + 1 < tune.rungs else []
        self._alive = going_on(tried, tune.keep, LEAST_STEPS, beyond)
        self._most = len(self._alive)
        return [(each.candidate, each.trials[-1]) for each in (*tried, *beyond)]

    def _train(self, rung: int) -> list[Contender]:
        """Those that had a trial, now among theirs; none where there is nothing to train anew, or the budget does not
        pay for it."""
        plan = self._planned(rung)
        tried = [self._alive[number] for number in plan["numbers"]]
        outcomes = self._trained(rung, [each.candidate for each in tried], plan["steps"])
        if all(outcome in each.trials for each, outcome in zip(tried, outcomes, strict=True)):
            return []
        self._pay(rung, outcomes)
        for each, outcome in zip(tried, outcomes, strict=True):
            each.trials.append(outcome)
        return tried

    def _with_rates_beyond(self, rung: int, tried: Sequence[Contender]) -> list[Contender]:
        """Those with a rate beyond all others, where the best has the lowest or the highest, and beyond that where it
        is better still; each has as many steps as the best one."""
        found: list[Contender] = []
        for number in range(1, RATES_BEYOND + 1):
            best = best_of([each.best for each in (*tried, *found) if each.best])
            new = self._beyond(best, [*tried, *found]) if best else []
            if not new or not self._pays(f"round {rung + 1}, rates beyond {number}", new, best.steps):
                break
            outcomes = self._trained(rung, new, [best.steps] * len(new))
            self._pay(rung, outcomes, "rates beyond")
            joined = [Contender(each, [outcome]) for each, outcome in zip(new, outcomes, strict=True)]
            found += joined
            self.had += joined
        return found

    def _beyond(self, best: Outcome, tried: Sequence[Contender]) -> list[Candidate]:
        candidate = next(each.candidate for each in tried if each.best is best)
        seen = [each.candidate for each in self.had]
        return with_rates_beyond(candidate, seen, self.planner.methods_of_any_rate)

    def _pays(self, name: str, tried: Sequence[Candidate], steps: int) -> bool:
        """Whether a share of what rounds have left pays for trials of these, alone, with so many steps each."""
        prices, below = self.planner.prices, self.before.stages if self.before else {}
        share = BEYOND_SHARE * (self.account.left - self.reserve) / len(tried)
        stages = [self.planner.sized(each, LEAST_STEPS) for each in tried]

        def pays() -> bool:
            return all(prices.steps_within(share, below, self.name, [stage]) >= steps for stage in stages)

        return self.planner.ledger.decided(f"{self.account.arm}: {name}", pays)

    def _trained(self, rung: int, tried: Sequence[Candidate], steps: Sequence[int]) -> list[Outcome]:
        return self.planner.train(self.before, self.name, tried, steps, keeps=rung < self.kept)

    def _pay(self, rung: int, outcomes: Sequence[Outcome], part: str | None = None) -> None:
        self.account.pay(outcomes)
        self.planner.say(round_in_words(self.account, rung, outcomes, part))

    def _planned(self, rung: int) -> Plan:
        return self.planner.ledger.decided(f"{self.account.arm}: round {rung + 1}", lambda: self._plan(rung))

    def _plan(self, rung: int) -> Plan:
        left, about = self.account.left, (self.before, self.name, self._alive)
        if rung == 0:
            return self.planner.first_plan(left, self.reserve, *about)
        amount = left - self.reserve
        if len(self._alive) == 1 and self.reserve:
            amount = min(amount, self._with_its_repeat(left))
        return self.planner.plan(amount, *about, self._most, self.planner.tune.rungs - rung)

    def _with_its_repeat(self, left: float) -> float:
        """What a trial may cost so that it can be repeated, with the best one of another candidate."""
        others = [each.best for each in self.had if each.best and each.candidate is not self._alive[0].candidate]
        other, unit = best_of(others), self.account.unit
        before = self.before.cost(unit) if self.before else 0.0
        return (left - before - (other.spent(unit) if other else 0.0)) / 2
