"""Figures for each label: which label was answered where which was right, precision, recall and F1.

Definitions as in scikit-learn with `zero_division=0`, but what divides by nothing is None here. Macro F1 is the mean
over the labels that are right, or answered, at least once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from heft.results.records import Record


@dataclass(frozen=True)
class LabelFigures:
    """One label's figures.

    Attributes:
        label: its index.
        right: rows whose right answer it is (scikit-learn: support).
        given: rows that are answered with it.
        hits: rows that are both.
    """

    label: int
    right: int
    given: int
    hits: int

    @property
    def precision(self) -> float | None:
        """Of the rows that are answered with it, the share where it is right; None where there are none."""
        return self.hits / self.given if self.given else None

    @property
    def recall(self) -> float | None:
        """Of the rows where it is right, the share that is answered with it; None where there are none."""
        return self.hits / self.right if self.right else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall; None where the label is neither right nor given."""
        return 2 * self.hits / (self.right + self.given) if self.right + self.given else None


def confusion(records: Sequence[Record], labels: int) -> list[list[int]]:
    """How many rows whose right answer is the row's label were answered with the column's; labels × labels."""
    counted = Counter((record.gold, record.prediction) for record in records)
    return [[counted[gold, given] for given in range(labels)] for gold in range(labels)]


def label_figures(matrix: Sequence[Sequence[int]]) -> list[LabelFigures]:
    """The figures of each label of a confusion matrix."""
    given = [sum(column) for column in zip(*matrix, strict=True)]
    return [LabelFigures(i, sum(row), given[i], row[i]) for i, row in enumerate(matrix)]


def macro_f1(figures: Sequence[LabelFigures]) -> float | None:
    """The mean of the labels' F1; None where no label occurs."""
    found = [each.f1 for each in figures if each.f1 is not None]
    return sum(found) / len(found) if found else None


def confused(matrix: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """(right label, label that was answered, rows), the most frequent first; ties in the labels' order."""
    pairs = [(i, j, n) for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j and n]
    return sorted(pairs, key=lambda pair: -pair[2])
