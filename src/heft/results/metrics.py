"""Figures from records: accuracy with its interval, balanced accuracy, how often each answer was given.

Sources: Wilson score interval, E. B. Wilson, JASA 22 (1927) 209–212, as computed by scipy's `binomtest`. Balanced
accuracy: mean over the classes that occur of the share of each class that was answered rightly (recall).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from heft.results.records import Record


@dataclass(frozen=True)
class Metrics:
    """Figures of one evaluation. What is undefined is None.

    Attributes:
        n: examples.
        accuracy: share answered rightly.
        interval: Wilson's 95 % interval of the accuracy.
        balanced_accuracy: mean recall over classes; None for generated answers.
        majority: share of the commonest right answer, what a constant answer would score; None for generated answers.
        predictions: how often each choice was predicted, as a share; None for generated answers.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float | None
    majority: float | None
    predictions: dict[str, float] | None


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    interval = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def measure(records: Sequence[Record]) -> Metrics:
    """Figures of a non-empty list of records."""
    n, correct = len(records), sum(record.correct for record in records)
    interval = wilson(correct, n)
    if any(not record.log_likelihoods for record in records):
        return Metrics(n, correct / n, interval, None, None, None)
    by_gold = Counter(record.gold for record in records)
    hits = Counter(record.gold for record in records if record.correct)
    predicted = Counter(record.prediction for record in records)
    width = max(len(record.log_likelihoods) for record in records)
    return Metrics(
        n=n,
        accuracy=correct / n,
        interval=interval,
        balanced_accuracy=sum(hits[gold] / count for gold, count in by_gold.items()) / len(by_gold),
        majority=max(by_gold.values()) / n,
        predictions={str(i): predicted[i] / n for i in range(width)},
    )
