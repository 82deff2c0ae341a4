"""Successive halving (arXiv 1502.07943): of a round's trials the best go on, to a round of fewer and longer ones.

On few rows a longer trial may be a worse one. What was better when it trained for less goes on with lengths
around that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from heft.tune.space import Candidate
from heft.tune.trial import Outcome

_Tried = TypeVar("_Tried")
CLOSE = 2.0
"""Between two lengths none is tried where the longer is at most so many times the shorter."""


@dataclass
class Contender:
    """A candidate that is still in the search.

    Attributes:
        candidate: what it is.
        trials: those that it has had, one a round.
    """

    candidate: Candidate
    trials: list[Outcome] = field(default_factory=list)

    @property
    def best(self) -> Outcome | None:
        """Of its trials; None where all diverged, or it has had none."""
        return best_of(self.trials)

    def next_steps(self, least: int, most: int) -> int:
        """Steps of its next trial; 0 where those would be too many, and as many as its best trial's where its length is
        known closely enough.

        They are as many as may be, unless its best trial was not its longest, or was as long already. Then they are the
        geometric mean of its best trial's and the nearest others', on the side on which these are further away.

        Args:
            least: of the shortest trial there is.
            most: that there may be.
        """
        best = self.best
        if best is None or (self._too_long(best) is None and most > best.steps):
            return most
        shorter, longer = self._around(best, least)
        between = (best.steps, longer) if longer * shorter >= best.steps**2 else (shorter, best.steps)
        steps = best.steps if between[1] <= CLOSE * between[0] else round(math.sqrt(between[0] * between[1]))
        return steps if steps <= most else 0

    def is_settled(self, least: int) -> bool:
        """Whether its best trial was not its longest, and its length is known closely enough."""
        best = self.best
        if best is None or self._too_long(best) is None:
            return False
        shorter, longer = self._around(best, least)
        return max(longer / best.steps, best.steps / shorter) <= CLOSE

    def _too_long(self, best: Outcome) -> int | None:
        """The fewest steps that are more than the best trial's, and were worse; None where its longest was best."""
        return min((trial.steps for trial in self.trials if trial.steps > best.steps), default=None)

    def _around(self, best: Outcome, least: int) -> tuple[int, int]:
        """The nearest steps below and above the best trial's: of other trials, or those that trials may have."""
        here = best.steps
        shorter = max((trial.steps for trial in self.trials if trial.steps < here), default=min(least, here))
        return shorter, self._too_long(best) or best.steps


def going_on(tried: Sequence[Contender], keep: int, least: int, beside: Sequence[Contender] = ()) -> list[Contender]:
    """Those of a round that have another trial: as many as one in `keep` of them, the best by the best that each has
    had.

    A round whose length was wrong for all of them says nothing of who is better, so all of them go on.

    Args:
        tried: in the round.
        keep: see above.
        least: the steps of the shortest trial.
        beside: others, which compete for the same places.
    """
    has_gained = any(each.best and each.best.key == each.trials[-1].key for each in tried)
    all_of_them = [*tried, *beside]
    bests = [each.best or each.trials[-1] for each in all_of_them]
    places = math.ceil(len(tried) / keep) if has_gained else len(all_of_them)
    return [each for each in survivors(all_of_them, bests, places) if not each.is_settled(least)]


def survivors(tried: Sequence[_Tried], outcomes: Sequence[Outcome], places: int) -> list[_Tried]:
    """The best of what was tried, so many: lowest loss first, then highest accuracy, then order.

    What diverged does not go on.
    """
    sound = [(each, outcome) for each, outcome in zip(tried, outcomes, strict=True) if not outcome.diverged]
    sound.sort(key=lambda pair: (pair[1].loss, -(pair[1].accuracy or 0.0)))
    return [each for each, _ in sound[:places]]


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
