"""Each arm's search, piece by piece: an arm yields after every piece, so that arms can take turns.

Arms with one stage are halved from the start. Those with two first need a coarse stage: its settings are those that
were best in the first round of `lora`; it is trained with a constant rate and forked on its way; at each fork a few
short second stages are tried, until they buy more than the next segment (heft.tune.switch); then second stages are
halved from there. What several arms need, such as the coarse stage, runs once and is paid by each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heft.recipe.recipe import Recipe
from heft.recipe.tune import TuneSettings
from heft.text.units import percent
from heft.tune.bench import Before, Bench
from heft.tune.budget import in_unit
from heft.tune.halving import best_of, rounds_for, survivors
from heft.tune.ledger import Account, Ledger
from heft.tune.prices import LEAST_STEPS, Prices
from heft.tune.space import Candidate, candidates
from heft.tune.switch import Offer
from heft.tune.trial import BOTH, COARSE, FINE, Outcome, key_of, sized
from heft.tune.trunk import Trunk, fork_steps

STAGE_NAMES = {"lora": COARSE, "reft": FINE, "joint": BOTH}
"""Of an arm with one stage, by its method."""
TRUNK_SHARE = 0.4
"""Of what is left once the coarse settings are chosen, what the coarse stage may cost at most."""
FORK_SHARE = 0.05
"""Likewise, what the short second stages of one fork may cost."""
CALIBRATION_STEPS = 3
"""Of a training that only measures how fast trials are."""
FEW = 4
"""Second stages that are tried at a fork."""


@dataclass
class Search:
    """What arms have in common.

    Attributes:
        recipe: with numbers in place of every `auto` of its stages.
        tune: its settings of the search.
        bench, ledger, prices: see there.
        accounts: by arm.
        folder: for checkpoints of coarse stages.
        offers: what both stages offered at the forks, by arm.
    """

    recipe: Recipe
    tune: TuneSettings
    bench: Bench
    ledger: Ledger
    prices: Prices
    accounts: dict[str, Account]
    folder: Path
    offers: dict[str, list[Offer]] = field(default_factory=dict)

    def arm(self, name: str) -> Iterator[None]:
        """The pieces of an arm."""
        first, _, second = name.partition("+")
        if second:
            return self._two_stages(name, second)
        return self._halving(name, None, STAGE_NAMES[first], self.candidates(first))

    def candidates(self, method: str) -> list[Candidate]:
        """Stages to try, the likeliest first."""
        return candidates(self.recipe, method, self.bench.base.model.num_parameters())

    def calibrate(self) -> float:
        """A few steps of LoRA and of ReFT, so that trials can be planned in seconds; what they took.

        Both at once are as fast as LoRA until they are measured.
        """
        found: list[Outcome] = []
        for method in {"lora": None, **dict.fromkeys(part for arm in self.accounts for part in arm.split("+"))}:
            tried = self.candidates(method)[: self.tune.configurations]
            if not self.bench.goes_together([each.stage for each in tried]):
                tried = tried[:1]
            if method != "joint":
                found += self._train(None, STAGE_NAMES[method], tried, CALIBRATION_STEPS)
        return sum(outcome.spent(self.prices.unit) for outcome in found)

    def _halving(
        self, arm: str, before: Before | None, name: str, tried: Sequence[Candidate], count: int | None = None
    ) -> Iterator[None]:
        """Rounds of fewer and longer trials; each round gets an equal part of what is left."""
        alive = list(tried)[: count or self.tune.configurations]
        for rung in range(self.tune.rungs):
            outcomes = self._rung(arm, before, name, alive, rung)
            if not outcomes:
                if rung == 0:
                    self._too_little(arm, "for no trial")
                return
            yield
            alive = survivors(alive[: len(outcomes)], outcomes, self.tune.keep)
            if len(outcomes) == 1 or not alive:  # a single one got all that was left
                return

    def _rung(self, arm: str, before: Before | None, name: str, alive: Sequence[Candidate], rung: int) -> list[Outcome]:
        """One round of an arm; nothing where the budget does not pay for its shortest trial."""
        account = self.accounts[arm]
        plan = self.ledger.decided(
            f"{arm}: round {rung + 1}",
            lambda: self._plan(account.left, before, name, alive, self.tune.rungs - rung),
        )
        if not plan["count"]:
            return []
        outcomes = self._train(before, name, alive[: plan["count"]], plan["steps"])
        account.pay(outcomes)
        self._tell(arm, f"round {rung + 1}", outcomes)
        return outcomes

    def _plan(
        self, amount: float, before: Before | None, name: str, alive: Sequence[Candidate], rounds: int
    ) -> dict[str, int]:
        """How many of these are trained, and for how many steps each, in the first of so many rounds.

        All, or as many as get the least steps; they get what is left by equal parts for the rounds that they need.
        """
        below = before.stages if before else {}
        for count in range(len(alive), 0, -1):
            stages = [self._sized(each, LEAST_STEPS) for each in alive[:count]]
            together = self.bench.goes_together(stages)
            share = amount / min(rounds, rounds_for(count, self.tune.keep))
            steps = self.prices.steps_within(share, below, name, stages, together)
            if steps >= LEAST_STEPS:
                return {"count": count, "steps": steps}
        return {"count": 0, "steps": 0}

    def _sized(self, candidate: Candidate, steps: int):
        return sized(candidate.stage, steps, self.bench.holdout)

    def _train(self, before: Before | None, name: str, tried: Sequence[Candidate], steps: int) -> list[Outcome]:
        """Trials of these candidates with so many steps, from the ledger where they are finished."""
        below = before.stages if before else {}
        stages = [self._sized(each, steps) for each in tried]
        keys = [key_of({**below, name: stage}) for stage in stages]
        new = [number for number, key in enumerate(keys) if key not in self.ledger.outcomes]
        if new and self.bench.goes_together([stages[number] for number in new]):
            values = [tried[number].values for number in new]
            self.ledger.add(self.bench.train_on_top(before, name, [stages[number] for number in new], values))
        else:
            for number in new:
                self.ledger.add(self.bench.train_on_top(before, name, [stages[number]], [tried[number].values]))
        return [self.ledger.outcomes[key] for key in keys]

    def _two_stages(self, arm: str, method: str) -> Iterator[None]:
        account, tried = self.accounts[arm], self.candidates("lora")[: self.tune.configurations]
        coarse = self._rung_of_lora(account, tried)
        yield
        if not coarse:
            self._too_little(arm, "for no coarse stage")
        chosen = survivors(tried[: len(coarse)], coarse, max(1, len(coarse)))
        if not chosen:
            return
        left = account.left
        forks = self.ledger.decided(f"{arm}: forks", lambda: self._forks(TRUNK_SHARE * left, chosen[0]))
        if not forks:
            self._too_little(arm, "for no coarse stage")
            return
        trunk = Trunk(self.bench, self.ledger, chosen[0].stage, chosen[0].values, forks, self.folder)
        second = self.candidates(method)
        before = yield from self._until_the_switch(account, trunk, second, FORK_SHARE * left)
        if before is not None:
            yield from self._halving(arm, before, FINE, second)

    def _rung_of_lora(self, account: Account, tried: Sequence[Candidate]) -> list[Outcome]:
        """The first round of `lora`, which two-stage arms choose their coarse stage by; it runs once for all."""
        plan = self.ledger.decided(
            "lora: round 1", lambda: self._plan(account.amount, None, COARSE, tried, self.tune.rungs)
        )
        outcomes = self._train(None, COARSE, tried[: plan["count"]], plan["steps"]) if plan["count"] else []
        account.pay(outcomes)
        return outcomes

    def _forks(self, amount: float, chosen: Candidate) -> list[int]:
        stage = self._sized(chosen, LEAST_STEPS)
        last = self.prices.steps_within(amount, {}, COARSE, [stage], together=False)
        return fork_steps(last, self.tune.forks, LEAST_STEPS) if last >= LEAST_STEPS else []

    def _until_the_switch(
        self, account: Account, trunk: Trunk, second: Sequence[Candidate], amount: float
    ) -> Iterator[None]:
        """Train the coarse stage on from fork to fork, until the second one buys more; returns the fork, or None."""
        offers = self.offers[account.arm] = []
        here = self._at(account, trunk, 0)
        yield
        for number in range(len(trunk.forks)):
            if here.diverged:
                return trunk.before(number - 1) if number else None
            fine = self._at_a_fork(account, trunk, number, second, amount)
            yield
            is_last = number + 1 == len(trunk.forks)
            after = None if is_last else self._at(account, trunk, number + 1)
            if after is not None:
                yield
            offers.append(self._offer(account.arm, trunk.forks[number], here, after, fine))
            self._tell_offer(account.arm, offers[-1])
            if offers[-1].is_the_switch or is_last:
                return trunk.before(number)
            here = after
        raise AssertionError("the last fork is a switch")

    def _at(self, account: Account, trunk: Trunk, number: int) -> Outcome:
        found = trunk.at(number)
        account.pay([found])
        return found

    def _at_a_fork(
        self, account: Account, trunk: Trunk, number: int, second: Sequence[Candidate], amount: float
    ) -> Outcome | None:
        """The best of a few short second stages at a fork; None where all diverged or none is paid for.

        They are about as long as the segment is costly, as far as the amount goes.
        """
        before = trunk.before(number)
        few = second[:FEW]
        plan = self.ledger.decided(
            f"{account.arm}: fork {number + 1}", lambda: self._short_plan(amount, before, few, trunk, number)
        )
        if not plan["count"]:
            return None
        outcomes = self._train(before, FINE, few[: plan["count"]], plan["steps"])
        account.pay(outcomes)
        return best_of(outcomes)

    def _short_plan(
        self, amount: float, before: Before, few: Sequence[Candidate], trunk: Trunk, number: int
    ) -> dict[str, int]:
        plan = self._plan(amount, before, FINE, few, 1)
        if not plan["count"]:  # the cheapest that says anything
            plan = {"count": 1, "steps": LEAST_STEPS}
        segment = trunk.at(number).spent(
            self.prices.unit
        )  # those to come are twice as long, so this is on the safe side
        stage = self._sized(few[0], LEAST_STEPS)
        alone = self.prices.steps_within(segment, before.stages, FINE, [stage], together=False)
        return plan | {"steps": max(LEAST_STEPS, min(plan["steps"], alone))}

    def _offer(self, arm: str, step: int, here: Outcome, after: Outcome | None, fine: Outcome | None) -> Offer:
        unit = self.prices.unit
        goes_on = after is not None and not after.diverged

        def offer() -> dict[str, Any]:  # stays as it was: speeds that it rests on are measured anew all the time
            return {
                "step": step,
                "loss": here.loss,
                "coarse_loss": after.loss if goes_on else None,
                "coarse_cost": (after.trained_seconds if unit == "seconds" else after.flops) if goes_on else None,
                "fine_loss": fine.loss if fine else None,
                "fine_cost": self.prices.of_last_stage(fine) if fine else None,
            }

        return Offer(**self.ledger.decided(f"{arm}: switch at step {step}", offer))

    def _too_little(self, arm: str, what: str) -> None:
        left = in_unit(max(0.0, self.accounts[arm].left), self.prices.unit)
        self.bench.reporter.note(f"{arm}: what is left of its budget, {left}, pays {what} of {LEAST_STEPS} steps")

    def _tell(self, arm: str, what: str, outcomes: Sequence[Outcome]) -> None:
        account, best = self.accounts[arm], best_of(outcomes)
        count = f"{len(outcomes)} × {outcomes[0].steps:,} steps"
        share = f"{percent(account.spent / account.amount)} of its budget"
        found = "all diverged" if best is None else f"best {in_words(best)}"
        self.bench.reporter.note(f"{arm}, {what}: {count}; {found}; {share} spent")

    def _tell_offer(self, arm: str, offer: Offer) -> None:
        unit = {"seconds": "second", "flops": "10¹² FLOP"}[self.prices.unit]
        scale = 1.0 if self.prices.unit == "seconds" else 1e12

        def worth(value: float | None) -> str:
            return "nothing" if value is None else f"{scale * value:.4g}"

        then = "switch here" if offer.is_the_switch else "go on"
        self.bench.reporter.note(
            f"{arm}, fork at step {offer.step:,}: loss {offer.loss:.4f}; a {unit} buys {worth(offer.fine_buys)} in the"
            f" second stage, {worth(offer.coarse_buys)} in the first: {then}"
        )


def in_words(outcome: Outcome) -> str:
    """A trial's figures and values, such as `loss 0.4312, accuracy 81.0 % (learning_rate 0.001, rank 8)`."""
    accuracy = "" if outcome.accuracy is None else f", accuracy {percent(outcome.accuracy)}"
    return f"loss {outcome.loss:.4f}{accuracy} ({values_in_words(outcome.values)})"


def values_in_words(values: dict[str, Any]) -> str:
    """`learning_rate 0.001, rank 8`."""
    return ", ".join(f"{key} {value}" for key, value in values.items())


def spent_in_words(account: Account) -> str:
    """What an arm has spent."""
    return f"{in_unit(account.spent, account.unit)} of {in_unit(account.amount, account.unit)}"
