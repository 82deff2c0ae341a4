"""Who is told what happens during a run. The command line shows it; from Python, nothing is printed."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heft.adapters.attach import Row


class Reporter:
    """Receives the news of a run and ignores it. Subclass what you want to see."""

    def note(self, text: str) -> None:
        """A line for the person: what is being done, what was counted."""

    def overview(self, stage: str, rows: "Sequence[Row]") -> None:
        """Before a stage: what trains, what is frozen, what is active."""

    def progress(self, what: str, total: int) -> AbstractContextManager:
        """Around a piece of work of `total` steps, which are told by `step`."""
        return nullcontext()

    def step(self, what: str, done: int, total: int) -> None:
        """A step of the piece of work has been done."""

    def metrics(self, values: dict) -> None:
        """A measurement: `stage`, `step` and loss, learning rate, gradient norm, epoch as far as known."""
