"""Progress and news of an evaluation as the harness shows its own: a bar on standard error, lines in its log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from heft.runtime.reporter import Reporter

_LOG = logging.getLogger("lm_eval.heft")


class HarnessReporter(Reporter):
    """Shows a bar for each piece of work."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def note(self, text: str) -> None:
        """A line of the log, at the level info."""
        _LOG.info(text)

    def warn(self, text: str) -> None:
        """A line of the log, at the level warning."""
        _LOG.warning(text)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[None]:
        """A bar of so many steps."""
        with tqdm(total=total, desc=what) as self._bar:
            yield
        self._bar = None

    def step(self, what: str, done: int, total: int) -> None:
        """So far the bar reaches."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
