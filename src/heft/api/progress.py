"""Where progress is shown when heft is used from Python: in a notebook, in a terminal, or nowhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from heft.runtime.reporter import Reporter
from heft.text.escape import escape_controls


def reporter_for(progress: bool | None, to_stderr: bool = False) -> Reporter:
    """Who shows progress: with None, a notebook or a terminal where there is one; with True, any output.

    `to_stderr` keeps standard output free for results.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    if progress is False or (progress is None and not in_notebook() and not stream.isatty()):
        return Reporter()
    if in_notebook():
        return NotebookReporter()
    from heft.cli.show import ConsoleReporter, PlainConsole

    return ConsoleReporter(PlainConsole(soft_wrap=True, stderr=to_stderr))


def in_notebook() -> bool:
    """Whether this runs in a notebook, which has a kernel that shows more than text."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


class NotebookReporter(Reporter):
    """Notes as lines, and progress as one line that changes in its place."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._loss = ""

    def note(self, text: str) -> None:
        """A line of its own."""
        print(escape_controls(text))

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[None]:
        """A line with a bar."""
        from IPython.display import display

        self._loss = ""
        self._handle = display(_Bar(what, 0, total, ""), display_id=True)
        try:
            yield
        finally:
            self._handle = None

    def step(self, what: str, done: int, total: int) -> None:
        """Moves the bar."""
        if self._handle is not None:
            self._handle.update(_Bar(what, done, total, self._loss))

    def metrics(self, values: dict) -> None:
        """Keeps the loss for the next step."""
        if "loss" in values and "configuration" not in values:
            self._loss = f"loss {values['loss']:.4f}"


class _Bar:
    """A line of progress as a notebook shows it."""

    def __init__(self, what: str, done: int, total: int, loss: str):
        self._what, self._done, self._total, self._loss = what, done, total, loss

    def __repr__(self) -> str:
        return escape_controls(f"{self._what} {self._done:,}/{self._total:,} {self._loss}".rstrip())

    def _repr_html_(self) -> str:
        return f'<progress value="{self._done}" max="{self._total}"></progress> {escape(repr(self))}'
