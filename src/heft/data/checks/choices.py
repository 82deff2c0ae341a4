"""Choices that can never win, whatever a model computes."""

from collections.abc import Sequence

from heft.data.checks.fault import Fault, count, such_as
from heft.data.encode import EncodedExample
from heft.recipe.recipe import EvaluationSettings


def never_chosen(evaluation: Sequence[EncodedExample], settings: EvaluationSettings) -> list[Fault]:
    """Evaluation rows whose right choice can never win.

    A choice's log-likelihood is at most that of another whose tokens are how it begins (no EOS token is scored), and
    equal to that of another with the same tokens, of which the first wins, or, by byte, the one of the most bytes.
    """
    rows = [row for row in evaluation if row.choices and row.example.gold in losers(row, settings.normalize)]
    if not rows:
        return []
    found = (
        f"{count(rows, len(evaluation), 'eval')} can never be answered rightly: the right choice has all tokens of"
        f" another one, and no likelihood above it, {such_as(rows[0])} with {rows[0].example.choices}"
    )
    return [Fault("never_chosen", found, _advice(settings))]


def also_never_chosen(evaluation: Sequence[EncodedExample], settings: EvaluationSettings) -> str:
    """How many rows have a wrong choice that can never win, in words; empty where none has."""
    rows = [row for row in evaluation if losers(row, settings.normalize) - {row.example.gold}]
    if not rows:
        return ""
    return f"a wrong choice that can never be chosen: {count(rows, len(evaluation), 'eval')}; {_advice(settings)}"


def losers(row: EncodedExample, normalize: str) -> set[int]:
    """Numbers of the choices that can never win against another choice of the row."""
    sizes = [len(text.encode()) if normalize == "bytes" else 0 for text in row.example.choices]
    first: dict[tuple[int, ...], int] = {}  # of choices with the same tokens the one that wins
    for number in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
        first.setdefault(row.choices[number], number)
    found = {number for number, choice in enumerate(row.choices) if first[choice] != number}
    if normalize == "none":
        found |= {i for i, ids in enumerate(row.choices) if any(ids[:end] in first for end in range(1, len(ids)))}
    return found


def _advice(settings: EvaluationSettings) -> str:
    if settings.normalize == "none":
        return "set evaluation.normalize to tokens or bytes, or task.format to letters where the task has it"
    return "remove choices that stand twice"
