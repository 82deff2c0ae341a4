"""The best trials of an arm, trained again with another seed: what was best by luck is seldom so twice.

Validation rows are few and trials many, so that the lowest of all losses is partly luck: of the rows, of the order in
which rows were trained on, of the initial weights. Of the best few the one with the lowest mean over seeds is taken.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from heft.tune.halving import Contender, best_of
from heft.tune.space import Candidate
from heft.tune.trial import Outcome

FINALISTS = 3
"""Trials that are repeated."""
REPEAT_SHARE = 1 / 3
"""Of an arm's budget, what rounds leave for that: a last round of one trial costs a third of the rest."""
SLACK = 1.1
"""Of what is left, what repeats may cost: rounds and repeats are planned to the same amount, and none comes to it
exactly."""
SEEDS_APART = 100
"""The other seed's distance from the recipe's."""


def finalists_of(had: Iterable[Contender], left: float, unit: str) -> list[tuple[Candidate, Outcome]]:
    """The best trials, as many as can be repeated for what is left; none where that is fewer than two."""
    trials = {trial.key: (each.candidate, trial) for each in had for trial in each.trials if not trial.diverged}
    best = sorted(trials.values(), key=lambda pair: (pair[1].loss, -(pair[1].accuracy or 0.0)))[:FINALISTS]
    while len(best) > 1 and sum(trial.spent(unit) for _, trial in best) > SLACK * left:
        best.pop()
    return best if len(best) > 1 else []


def chosen_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The best recipe of an arm's trials: of those with several seeds, where there are some that did not diverge."""
    recipes: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        recipes.setdefault(_without(outcome, "seed"), []).append(outcome)
    repeated = [mean_of(found) for found in recipes.values() if len(found) > 1]
    return best_of(repeated) or best_of([found[0] for found in recipes.values() if len(found) == 1])


def mean_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Trainings of one recipe with several seeds as one; diverged where one of them has."""
    first = outcomes[0]
    if any(outcome.diverged for outcome in outcomes):
        return replace(first, loss=None, accuracy=None, row_losses=[])
    losses = [outcome.loss for outcome in outcomes]
    accuracies = [outcome.accuracy for outcome in outcomes]
    return replace(
        first,
        loss=float(np.mean(losses)),
        accuracy=None if None in accuracies else float(np.mean(accuracies)),
        row_losses=np.mean([outcome.row_losses for outcome in outcomes], axis=0).tolist(),
        seed_losses=losses,
    )


def is_other_length(one: Outcome, other: Outcome) -> bool:
    """Whether these are one recipe apart from its last stage's steps and seed."""
    return one.steps != other.steps and _without(one, "seed", "steps") == _without(other, "seed", "steps")


def _without(outcome: Outcome, *keys: str) -> str:
    *below, (name, stage) = outcome.stages.items()
    return json.dumps([*below, (name, {**stage, **dict.fromkeys(keys)})])
