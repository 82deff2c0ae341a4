"""The arms against each other on the same validation rows: who is best, who ties with it, and which of these wins."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heft.compare.statistics import estimates
from heft.text.listing import listed
from heft.tune.chosen_by import ChosenBy
from heft.tune.repeats import is_other_length
from heft.tune.trial import Outcome


@dataclass(frozen=True)
class ArmResult:
    """What an arm found.

    Attributes:
        arm: its name.
        best: its trial of lowest validation loss.
        loss, accuracy: of that one, on the validation rows that the arms are compared on: those that the best of every
            arm was measured on.
        cost: of training that one's recipe alone, in the budget's unit.
        difference: of its loss from the lowest one of all arms.
        interval: 95 % of the difference, from a paired bootstrap over validation rows; None where rows do not say.
        ties: whether the interval does not exclude 0.
        still_falls: whether its loss still fell with length: the same recipe with fewer steps was worse, with an
            interval that excludes 0, and none with more was tried.
    """

    arm: str
    best: Outcome
    loss: float
    accuracy: float | None
    cost: float
    difference: float
    interval: tuple[float, float] | None
    ties: bool
    still_falls: bool = False


def results_of(
    bests: Mapping[str, Outcome],
    costs: Mapping[str, float],
    weights: Sequence[int],
    groups: Sequence[int],
    trials: Mapping[str, Sequence[Outcome]],
) -> list[ArmResult]:
    """The arms, lowest loss first.

    Args:
        bests: each arm's best trial; arms without one are left out.
        costs: of training its recipe.
        weights: of each validation row in the loss: the rows of trials, then those of each repeat.
        groups: number of the text that each validation row is about, from 0 without a gap.
        trials: each arm's.
    """
    common = compared_rows(bests.values())
    trainings = min(max(1, len(best.seed_losses)) for best in bests.values())  # whose rows these are
    on_common = {
        arm: (float(np.sum(best.row_losses[:common]) / np.sum(weights[:common])), _accuracy(best, trainings))
        for arm, best in bests.items()
    }
    lowest = bests[min(on_common, key=lambda arm: (on_common[arm][0], -(on_common[arm][1] or 0.0)))].row_losses[:common]
    found = []
    for arm, best in bests.items():
        difference, interval = loss_difference(best.row_losses, lowest, weights, groups)
        ties = interval is None or interval[0] <= 0 <= interval[1]
        still_falls = _still_falls(best, trials[arm], weights, groups)
        found.append(ArmResult(arm, best, *on_common[arm], costs[arm], difference, interval, ties, still_falls))
    return sorted(found, key=lambda result: result.loss)


def _accuracy(best: Outcome, trainings: int) -> float | None:
    """The mean over so many of its first trainings."""
    return float(np.mean(best.seed_accuracies[:trainings])) if best.seed_accuracies else best.accuracy


def compared_rows(bests: Iterable[Outcome]) -> int:
    """How many validation rows the arms are compared on: those of as many trainings as the best of every arm has."""
    return min(len(best.row_losses) for best in bests)


def _still_falls(best: Outcome, trials: Sequence[Outcome], weights: Sequence[int], groups: Sequence[int]) -> bool:
    """See `ArmResult`; the nearest shorter trial is the one that is compared."""
    others = [each for each in trials if is_other_length(each, best) and not each.is_repeat]  # which has other rows
    if not others or any(each.steps > best.steps for each in others):
        return False
    nearest = max(others, key=lambda each: each.steps)
    if nearest.diverged:
        return False
    _, interval = loss_difference(nearest.row_losses, best.row_losses, weights, groups)
    return interval is not None and interval[0] > 0


def winner_of(results: Sequence[ArmResult]) -> ArmResult:
    """The cheapest of those that tie with the best, which is one of them."""
    return min((each for each in results if each.ties), key=lambda each: (each.cost, each.loss))


def loss_difference(
    one: Sequence[float], other: Sequence[float], weights: Sequence[int], groups: Sequence[int]
) -> tuple[float, tuple[float, float] | None]:
    """Difference of two losses, and its 95 % interval over rows, which are resampled by group.

    Arguments are each row's loss twice, its weight and its group, as far as both have the rows. Without an interval,
    nothing can be said.
    """
    common = min(len(one), len(other))
    rows = (np.asarray(one[:common]) - np.asarray(other[:common])) / np.mean(weights[:common])
    scale = float(np.abs(rows).max())
    if scale == 0.0:
        return 0.0, None
    (found,) = estimates([[rows[None] / scale]], np.asarray(groups[:common]))
    interval = found.interval and (scale * found.interval[0], scale * found.interval[1])
    return scale * found.difference, interval


def verdict_in_words(results: Sequence[ArmResult], unit: str, by: ChosenBy) -> str:
    """Who wins and why, in one or two sentences."""
    winner, best = winner_of(results), results[0]
    ties = [each.arm for each in results if each.ties and each.arm != best.arm]
    falling = [each.arm for each in results if each.still_falls]
    what = {"seconds": "in seconds of training", "flops": "in FLOPs of training"}[unit]
    parts = [f"{best.arm} has {by.lowest}, and no other arm ties with it."]
    if ties:
        tied = f"{listed([best.arm, *ties])} tie: the intervals of their differences in {by.name} include 0."
        parts = [tied, f"The cheapest of them {what}, {winner.arm}, is taken."]
    if falling:
        more = f"more of them (a larger budget, or tune.most_epochs) may find {by.lower}"
        parts.append(f"With more steps {listed(falling)} still became better: {more}.")
    return " ".join(parts)
