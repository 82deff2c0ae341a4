"""Stages made longer or shorter by one factor, so that together they cost what they may."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """What a step costs: `first` for the stage's first `epoch` steps, `later` after them.

    They differ where the first epoch caches activations for later ones.
    """

    first: float
    later: float
    epoch: int

    def cost(self, steps: float) -> float:
        """What so many steps cost."""
        return self.first * min(steps, self.epoch) + self.later * max(0.0, steps - self.epoch)


def total(rates: Sequence[Rate], steps: Sequence[float]) -> float:
    """What stages of so many steps cost together."""
    return sum(rate.cost(count) for rate, count in zip(rates, steps, strict=True))


def scaled(planned: Sequence[int], rates: Sequence[Rate], target: float) -> list[int]:
    """Steps of each stage, at least one, whose total cost is as near to `target` as can be.

    One factor multiplies the planned steps of all stages; of the ways to round the products up or down, the one that
    comes nearest is taken, the cheaper of two that are as near.
    """
    factor = _factor(planned, rates, target)
    choices = [sorted({max(1, math.floor(factor * n)), max(1, math.ceil(factor * n))}) for n in planned]
    found = itertools.product(*choices)
    return list(min(found, key=lambda steps: (abs(total(rates, steps) - target), total(rates, steps))))


def _factor(planned: Sequence[int], rates: Sequence[Rate], target: float) -> float:
    """The factor at which the stages cost just that, by halving: what they cost grows with it."""

    def cost(factor: float) -> float:
        return total(rates, [factor * steps for steps in planned])

    low, high = 0.0, 1.0
    while cost(high) < target:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < target else (low, middle)
    return high
