"""The best trials of an arm, trained again: what was best by luck is seldom so twice.

Validation rows are few and trials many, so that the lowest of all losses is partly luck: of the rows, of the order in
which rows were trained on, of the initial weights. So the best few are trained again, all their stages, with another
seed and measured on other validation rows, and the one with the lowest mean is taken. A stage of a repeat has a seed of
its own, those of other trials have none.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from heft.training.stage import split_validation
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
_Row = TypeVar("_Row")


def reserve_for(left: float, before: float) -> float:
    """Of what an arm has left, what its rounds leave for repeats; `before` is what the stage before them costs, which
    has to be trained again for any. Nothing where that alone would take the whole share."""
    return 0.0 if before > REPEAT_SHARE * left else before + REPEAT_SHARE * (left - before)


def with_other_validation(rows: Sequence[_Row], share: float, seed: int) -> list[_Row]:
    """The same rows in another order, of which `split_validation` makes other ones validation rows: each in the place
    of one that was trained on. Where the share is above a half, some are validation rows twice."""
    trained, validation = split_validation(range(len(rows)), share, seed)
    _, others = split_validation(trained, min(1.0, len(validation) / len(trained)), seed)
    found = list(rows)
    for here, there in zip(validation, others, strict=False):
        found[here], found[there] = rows[there], rows[here]
    return found


def finalists_of(
    had: Iterable[Contender], left: float, unit: str, before: float = 0.0
) -> list[tuple[Candidate, Outcome]]:
    """The best trials, as many as can be repeated for what is left; none where that is fewer than two. `before` as for
    `reserve_for`."""
    trials = {trial.key: (each.candidate, trial) for each in had for trial in each.trials if not trial.diverged}
    best = sorted(trials.values(), key=lambda pair: (pair[1].loss, -(pair[1].accuracy or 0.0)))[:FINALISTS]
    while len(best) > 1 and before + sum(trial.spent(unit) for _, trial in best) > SLACK * left:
        best.pop()
    return best if len(best) > 1 else []


def chosen_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The best recipe of an arm's trials: of those that were repeated, where there are some that did not diverge."""
    recipes: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        recipes.setdefault(_recipe_of(outcome), []).append(outcome)
    repeated = [mean_of(found) for found in recipes.values() if len(found) > 1]
    return best_of(repeated) or best_of([found[0] for found in recipes.values() if len(found) == 1])


def mean_of(outcomes: Sequence[Outcome]) -> Outcome:
    """A trial and its repeat as one, with the validation rows of both; diverged where one of them has."""
    first = outcomes[0]
    if any(outcome.diverged for outcome in outcomes):
        return replace(first, loss=None, accuracy=None, row_losses=[])
    losses = [outcome.loss for outcome in outcomes]
    accuracies = [outcome.accuracy for outcome in outcomes]
    return replace(
        first,
        loss=float(np.mean(losses)),
        accuracy=None if None in accuracies else float(np.mean(accuracies)),
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
