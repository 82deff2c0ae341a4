"""The answer to a row, and the columns of a table that hold it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from heft.errors import HeftError
from heft.tasks import Task
from heft.tasks.table import Row
from heft.text.listing import first_of


@dataclass(frozen=True)
class Prediction:
    """The answer to one row.

    Attributes:
        answer: the likeliest label, or the final answer in the generated text; None where that has none.
        labels: what could have been answered, in the row's order; empty where the answer is generated.
        probabilities: of each label: softmax of the choices' log-likelihoods as evaluation compares them
            (`evaluation.normalize`), so they add up to 1.
        text: all that was generated; None for labels.
    """

    answer: str | None
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    text: str | None = None

    @property
    def probability(self) -> float | None:
        """Of the answer; None where it is generated."""
        return max(self.probabilities, default=None)


def columns_of(task: Task, labels: Collection[tuple[str, ...]]) -> dict[str, Callable[[Prediction], Any]]:
    """What predictions add to rows: the name of each column, and its value for a prediction.

    `prediction` is the label or the text. For labels there are `probability`, that of the prediction, and
    `probability_LABEL` for each label; where labels differ from row to row, `probabilities` instead, an object from
    label to probability. Where the final answer is only a part of the generated text, `text` has all of it.

    Args:
        task: that is asked.
        labels: of each row; empty where its answer is generated.
    """
    columns: dict[str, Callable[[Prediction], Any]] = {"prediction": lambda found: found.answer}
    if any(labels):
        columns["probability"] = lambda found: found.probability
        different = set(labels)
        if len(different) == 1 and len(set(only := next(iter(different)))) == len(only):
            for place, label in enumerate(only):
                columns[f"probability_{label}"] = lambda found, place=place: found.probabilities[place]
        else:
            columns["probabilities"] = lambda found: dict(zip(found.labels, found.probabilities, strict=True))
    elif not task.answers_are_texts:
        columns["text"] = lambda found: found.text
    return columns


def require_free_columns(rows: Sequence[Row], columns: Iterable[str] = ("prediction",)) -> None:
    """Require that rows have none of the columns that predictions are to have.

    Raises:
        HeftError: they have.
    """
    taken = sorted({name for _, row in rows for name in row} & set(columns))
    if taken:
        raise HeftError(f"the rows have a column {first_of(taken, 3)} already; rename it, or leave it out")
