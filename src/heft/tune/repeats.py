"""The best trials of an arm, trained again: what was best by luck is seldom so twice.

Validation rows are few and trials many, so that the lowest of all losses is partly luck: of the rows, of the order in
which rows were trained on, of the initial weights. So the best few are trained again, all their stages, with another
seed and measured on other validation rows; the best two of these as often again as the budget pays for, each time on
the next rows. Of those that were trained most often the one with the lowest mean is taken.

A stage of a repeat has a seed of its own, by which the repeat is known; stages of other trials have none.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from heft.tune.halving import Contender, survivors
from heft.tune.space import Candidate
from heft.tune.trial import Outcome

FINALISTS = 3
"""Trials that are repeated once."""
BEST_FINALISTS = 2
"""Trials that are repeated more often."""
MOST_REPEATS = 4
"""Of a trial."""
REPEAT_SHARE = 1 / 3
"""Of an arm's budget, what rounds leave for that: a last round of one trial costs a third of the rest."""
SLACK = 1.1
"""Of what is left, what repeats may cost: rounds and repeats are planned to the same amount, and none comes to it
exactly."""
SEEDS_APART = 100
"""The distance of a repeat's seed from that of the one before it, and of the first one's from the recipe's."""
_SEEDS = 2**32


@dataclass(frozen=True)
class Finalist:
    """A trial and its repeats so far.

    Attributes:
        candidate: what was tried.
        trainings: the trial, then its repeats in order.
    """

    candidate: Candidate
    trainings: Sequence[Outcome]


def reserve_for(left: float, before: float) -> float:
    """Of what an arm has left, what its rounds leave for repeats; `before` is what the stage before them costs, which
    has to be trained again for any. Nothing where that alone would take the whole share."""
    return 0.0 if before > REPEAT_SHARE * left else before + REPEAT_SHARE * (left - before)


def seed_of(number: int, seed: int) -> int:
    """The seed of the stages of repeat `number`, from 1, where the recipe has `seed`."""
    return (seed + SEEDS_APART * number) % _SEEDS


def number_of(own: int | None, seed: int) -> int:
    """The number of the repeat whose stages have this seed; 0 of None, a trial itself."""
    return 0 if own is None else (own - seed) % _SEEDS // SEEDS_APART


def finalists_of(had: Iterable[Contender]) -> list[Finalist]:
    """The best trials, best first."""
    trials = {trial.key: (each.candidate, trial) for each in had for trial in each.trials}
    found = [Finalist(candidate, [trial]) for candidate, trial in trials.values()]
    return _best_of(found, FINALISTS)


def best_finalists(finalists: Sequence[Finalist]) -> list[Finalist]:
    """Those that are repeated once more, where the budget pays for it."""
    return _best_of(finalists, BEST_FINALISTS)


def _best_of(finalists: Sequence[Finalist], count: int) -> list[Finalist]:
    return survivors(finalists, [mean_of(each.trainings) for each in finalists], count)


def paid_for(finalists: Sequence[Finalist], left: float, unit: str, before: float = 0.0) -> int:
    """How many of these can be repeated for what is left; 0 where it is fewer than two. `before` as for
    `reserve_for`."""
    costs = [each.trainings[0].spent(unit) for each in finalists]
    while len(costs) > 1 and before + sum(costs) > SLACK * left:
        costs.pop()
    return len(costs) if len(costs) > 1 else 0


def chosen_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The best recipe of an arm's trials: of those that were trained most often, of which one did not diverge."""
    recipes: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        recipes.setdefault(_recipe_of(outcome), []).append(outcome)
    for often in sorted({len(found) for found in recipes.values()}, reverse=True):
        means = [mean_of(found) for found in recipes.values() if len(found) == often]
        if best := survivors(means, means, 1):
            return best[0]
    return None


def mean_of(outcomes: Sequence[Outcome]) -> Outcome:
    """A trial and its repeats as one, with the validation rows of all; diverged where one of them has."""
    first = outcomes[0]
    if len(outcomes) == 1:
        return first
    if any(outcome.diverged for outcome in outcomes):
        return replace(first, loss=None, accuracy=None, row_losses=[])
    losses = [outcome.loss for outcome in outcomes]
    accuracies = [outcome.accuracy for outcome in outcomes if first.accuracy is not None]
    return replace(
        first,
        loss=float(np.mean(losses)),
        accuracy=float(np.mean(accuracies)) if accuracies else None,
        seed_accuracies=accuracies,
        row_losses=[loss for outcome in outcomes for loss in outcome.row_losses],
        seed_losses=losses,
    )


def is_other_length(one: Outcome, other: Outcome) -> bool:
    """Whether these are one recipe apart from its last stage's steps and from seeds."""
    return one.steps != other.steps and _recipe_of(one, "steps") == _recipe_of(other, "steps")


def _recipe_of(outcome: Outcome, *without: str) -> str:
    """Its stages without their seeds, the last one without these settings too."""
    *below, (name, stage) = [(each, {**values, "seed": None}) for each, values in outcome.stages.items()]
    return json.dumps([*below, (name, {**stage, **dict.fromkeys(without)})])
