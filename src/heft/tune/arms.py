"""Each arm's search, piece by piece: an arm yields after every piece, so that arms can take turns.

Arms with one stage are halved from the start. Those with two first need a coarse stage: its settings are those that
were best in the first round of `lora`; it is trained and forked on its way (heft.tune.trunk); at each fork a few short
second stages are tried, until they buy more than the next segment (heft.tune.switch); then second stages are halved
from there. What several arms need, such as the coarse stage, runs once and is paid by each.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heft.recipe.recipe import Recipe, Stage
from heft.recipe.training import DECAY
from heft.recipe.tune import TuneSettings
from heft.tune.bench import Before, Bench
from heft.tune.halving import Contender, best_of, going_on, rounds_for, survivors
from heft.tune.ledger import Account, Ledger
from heft.tune.news import offer_in_words, repeats_in_words, round_in_words, too_little_in_words
from heft.tune.prices import LEAST_STEPS, Prices
from heft.tune.repeats import REPEAT_SHARE, SEEDS_APART, finalists_of, mean_of
from heft.tune.space import Candidate, candidates, with_wider_rates
from heft.tune.switch import Offer
from heft.tune.trainers import Piece, Trainer
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
ROUNDS_OF_LENGTH = 3
"""Beyond those of halving, for what was better when it trained for less."""


@dataclass
class Search:
    """What arms have in common.

    Attributes:
        recipe: with numbers in place of every `auto` of its stages.
        tune: its settings of the search.
        bench, ledger, prices, trainer: see there.
        accounts: by arm.
        folder: for checkpoints of coarse stages.
        methods_of_any_rate: see `heft.tune.space.methods_of_any_rate`.
        offers: what both stages offered at the forks, by arm.
    """

    recipe: Recipe
    tune: TuneSettings
    bench: Bench
    ledger: Ledger
    prices: Prices
    accounts: dict[str, Account]
    folder: Path
    trainer: Trainer
    methods_of_any_rate: frozenset[str] = frozenset()
    offers: dict[str, list[Offer]] = field(default_factory=dict)

    def arm(self, name: str) -> Iterator[None]:
        """The pieces of an arm."""
        first, _, second = name.partition("+")
        if second:
            return self._two_stages(name, second)
        return self._halving(name, None, STAGE_NAMES[first], self.candidates(first))

    def candidates(self, method: str, second: bool = False) -> list[Candidate]:
        """Stages to try, the likeliest first; `second` as for `heft.tune.space.candidates`."""
        return candidates(self.recipe, method, self.bench.base.model.num_parameters(), second)

    def calibrate(self) -> float:
        """A few steps of LoRA and of ReFT, so that trials can be planned in seconds; what they took.

        Both at once are as fast as LoRA until they are measured.
        """
        found: list[Outcome] = []
        for method in {"lora": None, **dict.fromkeys(part for arm in self.accounts for part in arm.split("+"))}:
            tried = self.candidates(method)[: self.tune.configurations]
            first, *others = self.bench.groups([each.stage for each in tried])
            kinds = [first, *([others[0]] if others and len(first) > 1 else [])]  # side by side, and alone
            for group in kinds if method != "joint" else ():
                two = [tried[number] for number in group[:2]]  # which side by side are as fast as more
                found += self._train(None, STAGE_NAMES[method], two, [CALIBRATION_STEPS] * len(two))
        return sum(outcome.spent(self.prices.unit) for outcome in found)

    def _say(self, text: str) -> None:
        self.bench.reporter.note(text)

    def _halving(self, arm: str, before: Before | None, name: str, tried: Sequence[Candidate]) -> Iterator[None]:
        """Rounds of trials, and the best ones again with another seed."""
        account = self.accounts[arm]
        had = yield from self._rounds(arm, before, name, tried, REPEAT_SHARE * max(0.0, account.left))
        count = self.ledger.decided(f"{arm}: repeats", lambda: len(finalists_of(had, account.left, self.prices.unit)))
        finalists = finalists_of(had, math.inf, self.prices.unit)[:count]
        if finalists:
            candidates = [candidate for candidate, _ in finalists]
            steps = [trial.steps for _, trial in finalists]
            outcomes = self._train(before, name, candidates, steps, seed=(self.recipe.seed + SEEDS_APART) % 2**32)
            account.pay(outcomes)
            pairs = [mean_of([trial, other]) for (_, trial), other in zip(finalists, outcomes, strict=True)]
            self._say(repeats_in_words(account, pairs))
            yield

    def _rounds(
        self, arm: str, before: Before | None, name: str, tried: Sequence[Candidate], reserve: float
    ) -> Generator[None, None, list[Contender]]:
        """Rounds of fewer and longer trials; each round gets an equal part of what is left beyond the reserve.

        A candidate that was better when it trained for less, or cannot train for more, has lengths around that one in
        its next rounds, of which there are some more. Where the best has the lowest or the highest rate of all, one
        beyond that joins the next round of halving.
        """
        alive, most = [Contender(each) for each in tried], self.tune.configurations
        had: list[Contender] = []
        for rung in range(self.tune.rungs + ROUNDS_OF_LENGTH):
            alive = self._rung(arm, before, name, alive, most, rung, reserve)
            if not alive:
                if rung == 0:
                    self._say(too_little_in_words(self.accounts[arm], "no trial"))
                break
            yield
            had += [each for each in alive if len(each.trials) == 1]
            alive = going_on(alive, self.tune.keep, LEAST_STEPS)
            if alive and rung + 1 < self.tune.rungs:
                seen = [each.candidate for each in had]
                wider = with_wider_rates(alive[0].candidate, seen, self.methods_of_any_rate)
                alive += map(Contender, wider)
            most = len(alive)
        return had

    def _rung(
        self,
        arm: str,
        before: Before | None,
        name: str,
        alive: Sequence[Contender],
        most: int,
        rung: int,
        reserve: float,
    ) -> list[Contender]:
        """One round of an arm: those that had a trial, now among theirs; none where there is nothing to train anew, or
        the budget does not pay for it."""
        account, rounds = self.accounts[arm], self.tune.rungs - rung

        def plan_round() -> dict[str, list[int]]:
            if rung == 0:
                return self._first_plan(account.left, reserve, before, name, alive)
            return self._plan(account.left - reserve, before, name, alive, most, rounds)

        plan = self.ledger.decided(f"{arm}: round {rung + 1}", plan_round)
        tried = [alive[number] for number in plan["numbers"]]
        outcomes = self._train(before, name, [each.candidate for each in tried], plan["steps"])
        if all(outcome in each.trials for each, outcome in zip(tried, outcomes, strict=True)):
            return []
        account.pay(outcomes)
        self._say(round_in_words(account, rung, outcomes))
        for each, outcome in zip(tried, outcomes, strict=True):
            each.trials.append(outcome)
        return tried

    def _first_plan(
        self, amount: float, reserve: float, before: Before | None, name: str, tried: Sequence[Contender]
    ) -> dict[str, list[int]]:
        """As `_plan`, of a first round; one of a single trial may take the reserve."""
        about = (before, name, tried, self.tune.configurations, self.tune.rungs)
        found = self._plan(amount - reserve, *about)
        return found if len(found["numbers"]) > 1 else self._plan(amount, *about)

    def _plan(
        self, amount: float, before: Before | None, name: str, tried: Sequence[Contender], most: int, rounds: int
    ) -> dict[str, list[int]]:
        """Which of these are trained (by number), and for how many steps each, in the first of so many rounds (or the
        last one, where there are none).

        At `most` the first of those that get the least steps. What is left is parted equally among the rounds that they
        need, and in a round among trials, so that of two trials the one whose steps are cheaper is longer.
        """
        open_ones = list(range(len(tried)))
        while open_ones and most:
            numbers = open_ones[:most]
            share = amount / max(1, min(rounds, rounds_for(len(numbers), self.tune.keep))) / len(numbers)
            steps = self._steps_for(share, before, name, [tried[number] for number in numbers])
            poor = [number for number, count in zip(numbers, steps, strict=True) if count < LEAST_STEPS]
            if not poor:
                return {"numbers": numbers, "steps": steps}
            if len(poor) == len(numbers):
                most = len(numbers) - 1  # fewer get more each
            else:
                open_ones = [number for number in open_ones if number not in poor]
        return {"numbers": [], "steps": []}

    def _steps_for(self, share: float, before: Before | None, name: str, tried: Sequence[Contender]) -> list[int]:
        """Steps of each, where a trial may cost so much."""
        stages, steps = [self._sized(each.candidate, LEAST_STEPS) for each in tried], [0] * len(tried)
        for group in self.bench.groups(stages):
            own = [stages[place] for place in group]
            found = self.prices.steps_within(share * len(group), before.stages if before else {}, name, own)
            for place in group:
                steps[place] = tried[place].next_steps(LEAST_STEPS, found)
        return steps

    def _sized(self, candidate: Candidate, steps: int, seed: int | None = None) -> Stage:
        return sized(candidate.stage, steps, self.bench.holdout, seed=seed)

    def _train(
        self,
        before: Before | None,
        name: str,
        tried: Sequence[Candidate],
        steps: Sequence[int],
        seed: int | None = None,
    ) -> list[Outcome]:
        """Trials of these candidates with so many steps each, from the ledger where they are finished; `seed` as of a
        stage."""
        below = before.stages if before else {}
        stages = [self._sized(each, count, seed) for each, count in zip(tried, steps, strict=True)]
        keys = [key_of({**below, name: stage}) for stage in stages]
        new = [number for number, key in enumerate(keys) if key not in self.ledger.outcomes]
        groups = [[new[place] for place in group] for group in self.bench.groups([stages[number] for number in new])]
        pieces = [
            Piece(before, name, [stages[number] for number in group], [tried[number].values for number in group])
            for group in groups
        ]
        for outcomes in self.trainer.train(pieces):
            self.ledger.add(outcomes)
        return [self.ledger.outcomes[key] for key in keys]

    def _two_stages(self, arm: str, method: str) -> Iterator[None]:
        account = self.accounts[arm]
        chosen = self._coarse_settings(account)
        yield
        if chosen is None:
            return
        left = account.left
        forks = self.ledger.decided(f"{arm}: forks", lambda: self._forks(TRUNK_SHARE * left, chosen))
        if not forks:
            self._say(too_little_in_words(account, "no coarse stage"))
            return
        trunk = Trunk(self.bench, self.ledger, chosen.stage, chosen.values, forks, self.folder)
        second = self.candidates(method, second=True)
        before = yield from self._until_the_switch(account, trunk, second, FORK_SHARE * left)
        if before is not None:
            yield from self._halving(arm, before, FINE, second)

    def _coarse_settings(self, account: Account) -> Candidate | None:
        """Those that were best in the first round of `lora`, which runs once for all arms; None where all diverged.

        A round of one trial chooses nothing, so it is not waited for and not paid: its settings are the likeliest.
        Rates beyond those of the round are not tried: what is best in a few steps is too high for a stage that goes on.
        """
        tried, reserve = self.candidates("lora"), REPEAT_SHARE * account.amount
        plan = self.ledger.decided(
            "lora: round 1",
            lambda: self._first_plan(account.amount, reserve, None, COARSE, list(map(Contender, tried))),
        )
        chosen = [tried[number] for number in plan["numbers"]]
        if len(chosen) < 2:
            return (chosen or tried)[0]
        outcomes = self._train(None, COARSE, chosen, plan["steps"])
        account.pay(outcomes)
        return next(iter(survivors(chosen, outcomes, len(chosen))), None)

    def _forks(self, amount: float, chosen: Candidate) -> list[int]:
        stage = self._sized(chosen, LEAST_STEPS)
        last, shorter = (self.prices.steps_within(each, {}, COARSE, [stage]) for each in (amount, amount / (1 + DECAY)))
        if last < LEAST_STEPS:
            return []
        forks = fork_steps(last, self.tune.forks, LEAST_STEPS)
        if len(forks) > 1:  # each has a decay of its own
            forks = fork_steps(max(LEAST_STEPS, shorter), self.tune.forks, LEAST_STEPS)
        return forks

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
            self._say(offer_in_words(account, offers[-1]))
            if offers[-1].is_the_switch:  # as the last fork always is
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
        outcomes = self._train(before, FINE, [few[place] for place in plan["numbers"]], plan["steps"])
        account.pay(outcomes)
        return best_of(outcomes)

    def _short_plan(
        self, amount: float, before: Before, few: Sequence[Candidate], trunk: Trunk, number: int
    ) -> dict[str, list[int]]:
        plan = self._plan(amount, before, FINE, list(map(Contender, few)), len(few), 1)
        if not plan["numbers"]:  # the shortest that says anything
            plan = {"numbers": [0], "steps": [LEAST_STEPS]}
        segment = trunk.at(number).spent(self.prices.unit)  # those to come are twice as long: this is on the safe side
        most = [
            self.prices.steps_within(segment, before.stages, FINE, [self._sized(few[place], LEAST_STEPS)])
            for place in plan["numbers"]
        ]
        steps = [max(LEAST_STEPS, min(pair)) for pair in zip(plan["steps"], most, strict=True)]
        return {"numbers": plan["numbers"], "steps": steps}

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
