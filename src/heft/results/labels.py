"""What the choices of a task stand for, where all of its rows have the same ones."""

from collections.abc import Iterable, Sequence

from heft.tasks.example import Example


def shared_labels(examples: Iterable[Example]) -> tuple[str, ...] | None:
    """The labels in the order of their index; None where rows differ in them, or answers are generated."""
    found = {example.labels for example in examples}
    return next(iter(found)) or None if len(found) == 1 else None


def label_of(choice: int | str | None, labels: Sequence[str] | None) -> str:
    """A choice's label, or its place among the choices of a row, counted from 1; a generated answer as it is."""
    if isinstance(choice, int):
        return labels[choice] if labels is not None and choice < len(labels) else f"choice {choice + 1}"
    return "no answer" if choice is None else choice
