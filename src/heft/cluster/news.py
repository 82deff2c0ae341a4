"""What runs on other nodes say of themselves, and where that is kept until the process that began them asks."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from heft.results.records import Record
from heft.results.summary import StageSummary
from heft.runtime.reporter import Reporter, RunNews
from heft.text.units import percent

_SECONDS_BETWEEN = 0.5


class Board:
    """The latest news of every run, and what was said that nobody has heard yet. An actor of Ray."""

    def __init__(self) -> None:
        self._latest: dict[str, RunNews] = {}
        self._said: list[tuple[str, str]] = []

    def tell(self, news: RunNews) -> None:
        """Where a run is."""
        self._latest[news.name] = news

    def say(self, kind: str, text: str) -> None:
        """A "note" or a "warn" of a run, as `Reporter` has them."""
        self._said.append((kind, text))

    def take(self) -> tuple[dict[str, RunNews], list[tuple[str, str]]]:
        """Where every run is, and what was said since the last call."""
        said, self._said = self._said, []
        return dict(self._latest), said


class Sending(Reporter):
    """Sends the news of one run, steps at most twice a second.

    Args:
        name: of the run.
        node: where it is.
        tell, say: who hears of it, as the methods of `Board`.
    """

    def __init__(
        self, name: str, node: str, tell: Callable[[RunNews], object], say: Callable[[str, str], object]
    ) -> None:
        self._news, self._tell, self._say = RunNews(name, node, "starting"), tell, say
        self._sent = 0.0
        self._send()

    def _send(self, **changes: object) -> None:
        self._news, self._sent = replace(self._news, **changes), time.monotonic()
        self._tell(self._news)

    def note(self, text: str) -> None:
        """What is done before the first step, such as loading."""
        if self._news.total == 0:
            self._send(what=text.splitlines()[0])

    def warn(self, text: str) -> None:
        """Sent at once."""
        self._say("warn", f"{self._news.name}: {text}")

    def resumed(self, stage: str, step: int) -> None:
        """Said at once: it is what is left of a run that was lost or interrupted."""
        self._say("note", f"{self._news.name} goes on after step {step:,} of {stage}, on {self._news.node}")

    def progress(self, what: str, total: int) -> AbstractContextManager:
        """A piece of work begins."""
        self._send(what=what, done=0, total=total, loss=None)
        return nullcontext()

    def step(self, what: str, done: int, total: int) -> None:
        """Sent where the last news is old enough."""
        self._news = replace(self._news, what=what, done=done, total=total)
        if done == total or time.monotonic() - self._sent > _SECONDS_BETWEEN:
            self._send()

    def metrics(self, values: dict) -> None:
        """The loss goes with the next step."""
        if "loss" in values:
            self._news = replace(self._news, loss=values["loss"])

    def evaluated(self, summary: StageSummary, records: Sequence[Record]) -> None:
        """The accuracy after a stage."""
        self._send(scores=(*self._news.scores, f"{summary.name} {percent(summary.accuracy)}"))
