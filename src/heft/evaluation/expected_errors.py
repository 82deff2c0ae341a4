"""The expected share of wrong answers: what trainings are chosen by on few rows.

−ln p may choose trainings that are too short: it still punishes how sure a model is of its few wrong answers when more
steps make more answers right. The share of wrong answers itself is coarse where rows are few. How many points of
accuracy each costs is in docs/log.md (benchmarks/chosen_by.py).
"""

from collections.abc import Sequence

from heft.data.encode import EncodedExample
from heft.evaluation.evaluator import Answer, compared


def expected_error(row: EncodedExample, scores: Sequence[float], normalize: str) -> float:
    """1 − p of the right choice among a row's choices: the chance that a choice drawn by their probabilities is wrong;
    arguments as for `probabilities`."""
    return 1 - probabilities(row, scores, normalize)[row.example.gold]


def probabilities(row: EncodedExample, scores: Sequence[float], normalize: str) -> list[float]:
    """Of each of a row's choices among them, from ln p of each as texts; `normalize` as in a recipe.

    Where choices are compared by token or byte, they are so here, times the choices' mean size, so that they stay as
    far apart as texts are.
    """
    values = compared(row, scores, normalize)
    size = sum(scores) / sum(values) if any(values) else 1.0
    return Answer(tuple(size * value for value in values)).probabilities
