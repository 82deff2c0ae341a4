"""Several runs at once in one view: a table that changes in its place in a terminal, elsewhere a line now and then."""

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from heft.runtime.reporter import RunNews
from heft.text.escape import escape_controls
from heft.text.listing import first_of

_SECONDS_BETWEEN_LINES = 10.0
_MOST = 20
"""Runs that are shown; the others are counted."""


class RunsView:
    """Shows where runs are, as `Reporter.runs` hears of it.

    Args:
        console: where they are shown.
        table: makes a table of a title, headings of texts, headings of figures, and rows.
    """

    def __init__(self, console: Console, table: Callable[..., Table]):
        self._console, self._new_table = console, table
        self._live: Live | None = None
        self._last_line = 0.0

    def show(self, going: Sequence[RunNews], done: int, total: int) -> None:
        """The runs that are going, and how many of all are done; with none that is going the view ends."""
        if not going:
            self._end()
        elif self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(self._table(going, done, total), refresh=True)
        elif time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            lines = [f"{news.name} on {news.node}: {_where(news)}" for news in going]
            self._console.print(escape_controls(f"{done} of {total} runs done; {first_of(lines, _MOST, '; ')}"))

    def _table(self, going: Sequence[RunNews], done: int, total: int) -> Table:
        rows = [(news.name, news.node, _where(news), ", ".join(news.scores)) for news in going[:_MOST]]
        more = f", {len(going) - _MOST} more than are shown" if len(going) > _MOST else ""
        title = f"{done} of {total} runs done, {len(going)} going{more}"
        return self._new_table(title, ("run", "node", "is at", "accuracy so far"), (), rows, may_fold=True)

    def _end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _where(news: RunNews) -> str:
    """`coarse 12/40, loss 0.4312`."""
    if not news.total:
        return news.what
    loss = "" if news.loss is None else f", loss {news.loss:.4f}"
    return f"{news.what} {news.done:,}/{news.total:,}{loss}"
