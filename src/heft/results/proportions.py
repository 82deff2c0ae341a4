"""Shares of right answers: their 95 % interval, and whether one share is more than chance.

Sources: E. B. Wilson, JASA 22 (1927) 209–212; Q. McNemar, Psychometrika 12 (1947) 153–157. Both are in scipy.stats too,
whose import takes as long as a short command.
"""

from math import sqrt

from scipy.special import bdtr, ndtri

Z = float(ndtri(0.975))
"""Of a normal distribution, within which 95 % lie."""


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    return score_interval(correct / n, n)


def score_interval(share: float, count: float, z: float = Z) -> tuple[float, float]:
    """The same of a share of as many independent answers; `z` is the quantile that its ends lie at."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def mcnemar(won: int, lost: int) -> float | None:
    """Exact two-sided p-value of McNemar's test; None where nothing was won or lost."""
    return min(1.0, 2 * float(bdtr(min(won, lost), won + lost, 0.5))) if won + lost else None
