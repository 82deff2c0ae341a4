"""Figures from records: accuracy with its interval, balanced accuracy, how often each answer was given.

Balanced accuracy is the mean, over the classes that occur, of the share of each that was answered rightly (recall).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from heft.results.proportions import wilson
from heft.results.records import Record
from heft.results.texts import chrf, rouge_l


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
        loss: mean over examples of the cross-entropy of a token of the reference answer (nats); None for choices.
        rouge_l, chrf: how like generated texts are to the reference answers, 0 to 1 (heft.results.texts); None where
            answers are choices, or only a part of a text is compared.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float | None
    majority: float | None
    predictions: dict[str, float] | None
    loss: float | None = None
    rouge_l: float | None = None
    chrf: float | None = None


def measure(records: Sequence[Record], texts: bool = False) -> Metrics:
    """Figures of a non-empty list of records; `texts` is whether generated texts as a whole are the answers."""
    n, correct = len(records), sum(record.correct for record in records)
    interval = wilson(correct, n)
    if any(not record.log_likelihoods for record in records):
        return Metrics(n, correct / n, interval, None, None, None, **_of_texts(records, texts))
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


def _of_texts(records: Sequence[Record], texts: bool) -> dict[str, float]:
    """The figures of generated answers, beside accuracy."""
    losses = [record.loss for record in records if record.loss is not None]
    figures = {"loss": sum(losses) / len(losses)} if losses else {}
    if texts:
        pairs = [record.text or "" for record in records], [str(record.gold) for record in records]
        figures |= {"rouge_l": rouge_l(*pairs), "chrf": chrf(*pairs)}
    return figures
