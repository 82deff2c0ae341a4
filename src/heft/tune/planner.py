"""Which candidates are trained, and for how long, for a part of the budget; and their training."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from heft.recipe.recipe import Recipe, Stage
from heft.recipe.tune import TuneSettings
from heft.tune.bench import Bench
from heft.tune.halving import Contender, rounds_for
from heft.tune.ledger import Ledger
from heft.tune.prices import LEAST_STEPS, Prices
from heft.tune.space import Candidate, candidates
from heft.tune.trainers import Piece, Trainer
from heft.tune.trial import COARSE, Outcome, key_of, sized
from heft.tune.weights import Before

Plan = dict[str, list[int]]
"""The numbers of those that are trained, and the steps of each."""


@dataclass
class Planner:
    """What the rounds of all arms have in common.

    Attributes:
        recipe: with numbers in place of every `auto` of its stages.
        tune: its settings of the search.
        bench, ledger, prices, trainer: see there.
        methods_of_any_rate: see `heft.tune.space.methods_of_any_rate`.
    """

    recipe: Recipe
    tune: TuneSettings
    bench: Bench
    ledger: Ledger
    prices: Prices
    trainer: Trainer
    methods_of_any_rate: Collection[str] = ()

    def candidates(self, method: str, second: bool = False) -> list[Candidate]:
        """Stages to try, the likeliest first; `second` as for `heft.tune.space.candidates`."""
        parameters = self.bench.base.model.num_parameters()
        return candidates(self.recipe, method, parameters, second, self.methods_of_any_rate)

    def say(self, text: str) -> None:
        """Tell a person."""
        self.bench.reporter.note(text)

    def first_plan(
        self, amount: float, reserve: float, before: Before | None, name: str, tried: Sequence[Contender]
    ) -> Plan:
        """As `plan`, of a first round; one of a single trial may take the reserve.

        As many as one goes on of are an epoch long, where that many alone can be: else there are fewer trials. Before
        all rows were seen once, the highest rates look best, and a second stage has hardly begun.
        """
        about, most = (before, name, tried), self.tune.configurations
        found = self.plan(amount - reserve, *about, most, self.tune.rungs)
        while len(found["numbers"]) > self.tune.keep > self._full_epochs(found, tried):
            found = self.plan(amount - reserve, *about, len(found["numbers"]) - 1, self.tune.rungs)
        return found if len(found["numbers"]) > 1 else self.plan(amount, *about, most, self.tune.rungs)

    def _full_epochs(self, plan: Plan, tried: Sequence[Contender]) -> int:
        """Trials that are an epoch long."""
        epochs = [self.bench.counter.epoch(self.sized(tried[each].candidate, LEAST_STEPS)) for each in plan["numbers"]]
        return sum(steps >= epoch for steps, epoch in zip(plan["steps"], epochs, strict=True))

    def plan(
        self, amount: float, before: Before | None, name: str, tried: Sequence[Contender], most: int, rounds: int
    ) -> Plan:
        """Which of these are trained (by number), and for how many steps each, in the first of so many rounds (or the
        last one, where there are none).

        At `most` the first of those that get the least steps; of those that had a trial the best is the first; others
        make way where it is longer alone. What is left is parted equally among the rounds that they need, and in a
        round among trials, so that of two trials the one whose steps are cheaper is longer.
        """
        open_ones = list(range(len(tried)))
        while open_ones and most:
            numbers = open_ones[:most]
            share = amount / max(1, min(rounds, rounds_for(len(numbers), self.tune.keep))) / len(numbers)
            steps = self._steps_for(share, before, name, [tried[number] for number in numbers])
            poor = [number for number, count in zip(numbers, steps, strict=True) if count < LEAST_STEPS]
            best = tried[numbers[0]]
            is_held_back = (
                best.best is not None and steps[0] <= best.best.steps < self._steps_for(amount, before, name, [best])[0]
            )
            if not poor and not is_held_back:
                return {"numbers": numbers, "steps": steps}
            if is_held_back or len(poor) == len(numbers):
                most = len(numbers) - 1  # fewer get more each
            else:
                open_ones = [number for number in open_ones if number not in poor]
        return {"numbers": [], "steps": []}

    def _steps_for(self, share: float, before: Before | None, name: str, tried: Sequence[Contender]) -> list[int]:
        """Steps of each, where a trial may cost so much."""
        stages, steps = [self.sized(each.candidate, LEAST_STEPS) for each in tried], [0] * len(tried)
        for group in self.bench.groups(stages):
            own = [stages[place] for place in group]
            found = self.prices.steps_within(share * len(group), before.stages if before else {}, name, own)
            for place in group:
                steps[place] = tried[place].next_steps(LEAST_STEPS, found)
        return steps

    def sized(self, candidate: Candidate, steps: int, seed: int | None = None) -> Stage:
        """The candidate's stage with so many steps."""
        return sized(candidate.stage, steps, self.bench.holdout, seed=seed)

    def before(self, coarse: Candidate, trial: Outcome, seed: int | None = None) -> Before:
        """A trial of a coarse stage as the one below others; `seed` as it was trained with."""
        stage = self.sized(coarse, trial.steps, seed)
        weights = partial(self.bench.weights_of, COARSE, stage)
        seconds, is_estimated = self.prices.seconds_alone(trial), trial.training_seconds is None
        return Before(COARSE, stage, seconds, trial.training_flops, weights, is_estimated)

    def train(
        self,
        before: Before | None,
        name: str,
        tried: Sequence[Candidate],
        steps: Sequence[int],
        seed: int | None = None,
        keeps: bool = False,
    ) -> list[Outcome]:
        """Trials of these candidates with so many steps each, from the ledger where they are finished; `seed` as of a
        stage, `keeps` as of `Bench.train_on_top`."""
        below = before.stages if before else {}
        stages = [self.sized(each, count, seed) for each, count in zip(tried, steps, strict=True)]
        keys = [key_of({**below, name: stage}) for stage in stages]
        new = [number for number, key in enumerate(keys) if key not in self.ledger.outcomes]
        groups = [[new[place] for place in group] for group in self.bench.groups([stages[number] for number in new])]
        pieces = [
            Piece(before, name, [stages[number] for number in group], [tried[number].values for number in group], keeps)
            for group in groups
        ]
        for outcomes in self.trainer.train(pieces):
            self.ledger.add(outcomes)
        return [self.ledger.outcomes[key] for key in keys]
