"""Each arm's search, piece by piece: an arm yields after every piece, so that arms can take turns.

Arms with one stage are halved from the start. Those with two first need a coarse stage: the candidate of the best trial
in LoRA's first rounds, which are paid by these arms too, though they run once. Behind each of its trials there a few
short second stages are tried (heft.tune.forks); behind the one where the lowest loss was reached second stages are
halved.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

from heft.tune.forks import Forks
from heft.tune.halving import best_of
from heft.tune.ledger import Account
from heft.tune.news import repeats_in_words, too_little_in_words
from heft.tune.planner import Planner
from heft.tune.prices import LEAST_STEPS
from heft.tune.repeats import (
    MOST_REPEATS,
    Finalist,
    best_finalists,
    finalists_of,
    mean_of,
    paid_for,
    reserve_for,
    seed_of,
)
from heft.tune.rounds import Rounds
from heft.tune.space import Candidate
from heft.tune.switch import Offer
from heft.tune.trial import BOTH, COARSE, FINE, Outcome
from heft.tune.weights import Before

STAGE_NAMES = {"lora": COARSE, "reft": FINE, "joint": BOTH}
"""Of an arm with one stage, by its method."""
COARSE_ROUNDS = 2
"""Of LoRA's, in which the coarse stage is chosen."""
COARSE_SHARE = 0.4
"""Of a two-stage arm's budget, what the coarse stage may cost where LoRA's first round is one trial."""
FORK_SHARE = 0.05
"""Of what is left once the coarse stage is there, what the short second stages of one fork may cost."""
CALIBRATION_STEPS = 3
"""Of a training that only measures how fast trials are."""


@dataclass
class Search:
    """All arms.

    Attributes:
        planner: plans and trains what they try.
        accounts: by arm.
        offers: what both stages offered at the forks, by arm.
    """

    planner: Planner
    accounts: dict[str, Account]
    offers: dict[str, list[Offer]] = field(default_factory=dict)

    def arm(self, name: str) -> Iterator[None]:
        """The pieces of an arm."""
        first, _, second = name.partition("+")
        if second:
            return self._two_stages(self.accounts[name], second)
        if name == "lora":
            return self._halving(self._loras_rounds)
        return self._halving(
            self._rounds(self.accounts[name], None, STAGE_NAMES[first], self.planner.candidates(first))
        )

    def calibrate(self) -> float:
        """A few steps of LoRA and of ReFT, so that trials can be planned in seconds; what they took.

        Both at once are as fast as LoRA until they are measured.
        """
        found: list[Outcome] = []
        planner = self.planner
        for method in {"lora": None, **dict.fromkeys(part for arm in self.accounts for part in arm.split("+"))}:
            tried = planner.candidates(method)[: planner.tune.configurations]
            first, *others = planner.bench.groups([each.stage for each in tried])
            alone = [group for group in others if len(group) == 1 < len(first)]
            for group in [first, *alone[:1]] if method != "joint" else ():  # side by side, and alone
                two = [tried[number] for number in group[:2]]  # which side by side are as fast as more
                found += planner.train(None, STAGE_NAMES[method], two, [CALIBRATION_STEPS] * len(two))
        return sum(outcome.spent(planner.prices.unit) for outcome in found)

    @cached_property
    def _loras_rounds(self) -> Rounds:
        """Those in which arms with two stages look for their first one too, whether `lora` is an arm or not."""
        some = next(iter(self.accounts.values()))
        account = self.accounts.get("lora") or Account("lora", some.amount, some.unit, some.ledger, some.chosen_by)
        kept = COARSE_ROUNDS if any("+" in arm for arm in self.accounts) else 0
        return self._rounds(account, None, COARSE, self.planner.candidates("lora"), kept)

    def _rounds(
        self, account: Account, before: Before | None, name: str, tried: Sequence[Candidate], kept: int = 0
    ) -> Rounds:
        reserve = reserve_for(max(0.0, account.left), before.cost(account.unit) if before else 0.0)
        return Rounds(self.planner, account, before, name, tried, reserve, kept)

    def _halving(self, rounds: Rounds, coarse: Candidate | None = None) -> Iterator[None]:
        """Rounds of trials, and the best ones again; `coarse` is the candidate of the stage before them."""
        number = 0
        while rounds.trials(number):
            number += 1
            yield
        yield from self._repeats(rounds, coarse)

    def _repeats(self, rounds: Rounds, coarse: Candidate | None) -> Iterator[None]:
        """The best trials again with other seeds and validation rows, the stage before them too: it was trained on rows
        that are validation rows now."""
        planner, account, unit = self.planner, rounds.account, self.planner.prices.unit
        cost, finalists = rounds.before.cost(unit) if rounds.before else 0.0, finalists_of(rounds.had)
        for number in range(1, MOST_REPEATS + 1):
            count = planner.ledger.decided(
                f"{account.arm}: repeat {number}", partial(paid_for, finalists, account.left, unit, cost)
            )
            finalists = finalists[:count]
            if not finalists:
                return
            before, seed = rounds.before, seed_of(number, planner.recipe.seed)
            if before:
                (again,) = planner.train(None, COARSE, [coarse], [before.stage.steps], seed, keeps=True)
                account.pay([again])
                yield
                if again.diverged:
                    return
                before = planner.before(coarse, again, seed)
            steps = [each.trainings[0].steps for each in finalists]
            outcomes = planner.train(before, rounds.name, [each.candidate for each in finalists], steps, seed)
            account.pay(outcomes)
            repeated = [
                Finalist(each.candidate, [*each.trainings, outcome])
                for each, outcome in zip(finalists, outcomes, strict=True)
            ]
            planner.say(repeats_in_words(account, [mean_of(each.trainings) for each in repeated]))
            yield
            finalists = best_finalists(repeated)

    def _two_stages(self, account: Account, method: str) -> Iterator[None]:
        coarse = yield from self._coarse_stage(account)
        if coarse is None:
            return
        second = self.planner.candidates(method, second=True)
        forks = Forks(self.planner, account, *coarse, second, FORK_SHARE * account.left)
        self.offers[account.arm] = forks.offers
        before = yield from forks.switch()
        yield from self._halving(self._rounds(account, before, FINE, second), forks.coarse)

    def _coarse_stage(self, account: Account) -> Generator[None, None, tuple[Candidate, list[Outcome]] | None]:
        """The candidate of the best of LoRA's trials in its first rounds, and its own of them up to that one, rising in
        steps; None where all diverged.

        A first round of one trial chooses nothing, so it is not waited for and not paid: the likeliest is trained.
        """
        planned = self._loras_rounds.planned()
        if len(planned) < 2:
            return (yield from self._likeliest(account, self._loras_rounds.tried[planned[0] if planned else 0]))
        found: list[tuple[Candidate, Outcome]] = []
        for number in range(COARSE_ROUNDS):
            trials = self._loras_rounds.trials(number)
            account.pay([outcome for _, outcome in trials])
            found += trials
            yield
        best = best_of([outcome for _, outcome in found])
        if best is None:
            return None
        chosen = next(candidate for candidate, outcome in found if outcome is best)
        own = {each.key: each for candidate, each in found if candidate is chosen and each.steps <= best.steps}
        return chosen, sorted((each for each in own.values() if not each.diverged), key=lambda each: each.steps)

    def _likeliest(
        self, account: Account, coarse: Candidate
    ) -> Generator[None, None, tuple[Candidate, list[Outcome]] | None]:
        """This coarse stage, as long as its share pays for; None where that is too little, or it diverged."""
        planner, amount = self.planner, COARSE_SHARE * account.left
        stage = planner.sized(coarse, LEAST_STEPS)
        steps = planner.ledger.decided(
            f"{account.arm}: coarse stage", lambda: planner.prices.steps_within(amount, {}, COARSE, [stage])
        )
        if steps < LEAST_STEPS:
            planner.say(too_little_in_words(account, "no coarse stage"))
            return None
        (outcome,) = planner.train(None, COARSE, [coarse], [steps], keeps=True)
        account.pay([outcome])
        yield
        return None if outcome.diverged else (coarse, [outcome])
