"""Rows to predict on → encoded questions, and what is wrong with those that cannot be asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from heft.data.checks.base import require_computable
from heft.data.encode import EncodedExample, Encoder
from heft.errors import HeftError
from heft.models.limits import BaseLimits
from heft.tasks.base import Task
from heft.tasks.example import Example, without_answer
from heft.tasks.table import Row

_UNKNOWN = (None, "", -1, "-1")
"""Values that stand for an answer that is not known, as test splits of published data sets have them."""


@dataclass(frozen=True)
class Questions:
    """Rows as a model is asked about them.

    Attributes:
        encoded: one for each row, in order; None where the row cannot be used.
        faults: of each row that cannot be used, its place and why.
        unusable_answers: rows whose answer is given, but is none that the task knows; they are asked all the same.
    """

    encoded: list[EncodedExample | None]
    faults: list[tuple[str, str]]
    unusable_answers: int

    @property
    def usable(self) -> list[EncodedExample]:
        """Those that can be asked, in order."""
        return [each for each in self.encoded if each is not None]


def questions_of(rows: Sequence[Row], task: Task, encode: Encoder, limits: BaseLimits) -> Questions:
    """Every row as a question; with its right answer where the row has one.

    Args:
        rows: places and fields.
        task: whose fields the rows have, but for the answer.
        encode: the encoder of the task's rows.
        limits: of the model that is to answer.

    Raises:
        HeftError: something is wrong with all rows for one reason that is not theirs, such as a chat template.
    """
    found = [_example(task, row) for _, row in rows]
    reasons: dict[int, str] = {i: each for i, each in enumerate(found) if isinstance(each, str)}
    asked = {i: each for i, each in enumerate(found) if isinstance(each, Example)}

    def encoded_alone(some: list[Example]) -> list[EncodedExample]:
        try:
            return encode(some)
        except HeftError:
            if len(some) > 1 or not some[0].answered:
                raise
            return encode([without_answer(some[0])])  # an answer that is too long to train on is no matter here

    encoded = _each(asked, encoded_alone, reasons)

    def computable(some: list[EncodedExample]) -> list[EncodedExample]:
        require_computable(some, limits, task)
        return some

    encoded = _each(encoded, computable, reasons)
    return Questions(
        encoded=[encoded.get(i) for i in range(len(rows))],
        faults=[(rows[i][0], reasons[i]) for i in sorted(reasons)],
        unusable_answers=sum(
            not example.answered and _gives_an_answer(task, rows[i][1]) for i, example in asked.items()
        ),
    )


def _example(task: Task, row: dict) -> Example | str:
    """The row's example, with its answer where that is there and right in kind; else what is wrong with the row."""
    if not task.row_faults(row):
        try:
            return task.example(row)
        except HeftError:
            pass  # perhaps only the answer is at fault
    faults = task.question_faults(row)
    if faults:
        return "; ".join(faults)
    try:
        return task.question(row)
    except HeftError as error:
        return str(error)


def _gives_an_answer(task: Task, row: dict) -> bool:
    value = task.given_answer(row)
    return value not in _UNKNOWN and value == value  # NaN is how pandas says that there is none


def _each(items: dict[int, object], apply: Callable[[list], list], reasons: dict[int, str]) -> dict[int, object]:
    """What `apply` makes of all items together; where that fails, of each alone, and `reasons` has the failures.

    Raises:
        HeftError: all of several fail for one and the same reason.
    """
    if not items:
        return {}
    try:
        return dict(zip(items, apply(list(items.values())), strict=True))
    except HeftError as error:
        whole = error
    done, failed = {}, {}
    for i, item in items.items():
        try:
            done[i] = apply([item])[0]
        except HeftError as error:
            failed[i] = str(error)
    if not failed:
        raise whole
    if not done and len(failed) > 1 and len(set(failed.values())) == 1:
        raise whole
    reasons.update(failed)
    return done
