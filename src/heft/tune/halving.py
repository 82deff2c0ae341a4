"""Successive halving (arXiv 1502.07943): of a round's trials the best go on, to a round of fewer and longer ones."""

import math
from collections.abc import Sequence
from typing import TypeVar

from heft.tune.trial import Outcome

_Tried = TypeVar("_Tried")


def survivors(tried: Sequence[_Tried], outcomes: Sequence[Outcome], keep: int) -> list[_Tried]:
    """The best of what was tried, one in `keep`, at least one: lowest loss first, then highest accuracy, then order.

    What diverged does not go on.
    """
    sound = [(each, outcome) for each, outcome in zip(tried, outcomes, strict=True) if not outcome.diverged]
    sound.sort(key=lambda pair: (pair[1].loss, -(pair[1].accuracy or 0.0)))
    return [each for each, _ in sound[: max(1, math.ceil(len(tried) / keep))]]


def rounds_for(count: int, keep: int) -> int:
    """Rounds after which one of so many is left, the last one among them."""
    rounds = 1
    while count > 1:
        count, rounds = math.ceil(count / keep), rounds + 1
    return rounds


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The one of lowest loss, then highest accuracy, then the first; None where all diverged."""
    sound = [outcome for outcome in outcomes if not outcome.diverged]
    return min(sound, key=lambda each: (each.loss, -(each.accuracy or 0.0)), default=None)
