"""Who hears what happens during a run.

Everything speaks to one `Reporter`: stages, sweeps, evaluations. `Reporters` passes the news on to several: the run
directory writes metrics and evaluations to its files, the console shows them, and a tracker (TensorBoard, Weights &
Biases, one's own) is one further subclass:

    class Tracker(Reporter):
        def metrics(self, values): ...
        def evaluated(self, summary, records): ...

    heft.train(recipe, Reporters([ConsoleReporter(), Tracker()]))
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partialmethod
from typing import Any

from heft.results.records import Record
from heft.results.summary import StageSummary


@dataclass(frozen=True)
class AdapterRow:
    """A line of the table before a stage.

    Attributes:
        name: of the adapter, or "base".
        method: "lora", "reft" or "model".
        state: "trains" or "frozen", "active" or "inactive".
        parameters: how many numbers it has.
    """

    name: str
    method: str
    state: str
    parameters: int


@dataclass(frozen=True)
class Piece:
    """A piece of work that is to come, for whoever says how long it will take.

    Attributes:
        name: by which `progress` will name it.
        kind: what its speed is like: "training", "prefixes" (training behind cached prefixes) or "evaluation".
        rows, tokens: that it takes in all, rows that come again counted again, padding not counted.
        flops: in all; None where they are not counted.
        once_flops: those of them that fall within the first `once_share` of its steps, as what is cached is computed.
    """

    name: str
    kind: str
    rows: float
    tokens: float
    flops: float | None = None
    once_flops: float = 0.0
    once_share: float = 1.0


@dataclass(frozen=True)
class RunNews:
    """Where one of several runs is that go on at once.

    Attributes:
        name: of the run.
        node: the machine that it is on.
        what: the piece of work that it is at.
        done, total: steps of it; 0 of 0 before the first.
        loss: of the last logged step; None where there is none.
        scores: of its evaluations so far, in words.
    """

    name: str
    node: str
    what: str
    done: int = 0
    total: int = 0
    loss: float | None = None
    scores: tuple[str, ...] = ()


class Reporter:
    """Hears the news of a run and ignores it. Subclass what you want to hear."""

    def note(self, text: str) -> None:
        """A line for the person: what is being done, what was counted."""

    def warn(self, text: str) -> None:
        """A line that matters even to who wants to hear little: what is odd, was damaged, or may change a result."""
        self.note(text)

    def overview(self, stage: str, rows: Sequence[AdapterRow]) -> None:
        """Before a stage: what trains, what is frozen, what is active."""

    def expected(self, pieces: Sequence[Piece]) -> None:
        """Before a run: the pieces of work that are to come, in order."""

    def progress(self, what: str, total: int) -> AbstractContextManager:
        """Around a piece of work of `total` steps; `step` counts them."""
        return nullcontext()

    def step(self, what: str, done: int, total: int) -> None:
        """A step of the piece of work is done."""

    def metrics(self, values: dict) -> None:
        """A measurement: `stage` (in a sweep also `configuration`), `step`, and as far as known `loss`, `eval_loss`,
        `learning_rate`, `grad_norm`, `epoch`, `diverged`."""

    def evaluated(self, summary: StageSummary, records: Sequence[Record]) -> None:
        """The model after a stage, or the base, was evaluated: its figures and the record of every example."""

    def resumed(self, stage: str, step: int) -> None:
        """A stage continues after that step: what was reported of it beyond is void and comes again."""

    def runs(self, going: Sequence[RunNews], done: int, total: int) -> None:
        """Of `total` runs, several at once, so many are done, and these are going; comes again as long as they last.
        The last call has none that is going."""


class Reporters(Reporter):
    """Passes the news on to several listeners, in their order."""

    def __init__(self, listeners: Sequence[Reporter]):
        self.listeners = list(listeners)

    def _pass_on(self, what: str, *news: Any) -> None:
        for each in self.listeners:
            getattr(each, what)(*news)

    note = partialmethod(_pass_on, "note")
    warn = partialmethod(_pass_on, "warn")
    overview = partialmethod(_pass_on, "overview")
    expected = partialmethod(_pass_on, "expected")
    step = partialmethod(_pass_on, "step")
    metrics = partialmethod(_pass_on, "metrics")
    evaluated = partialmethod(_pass_on, "evaluated")
    resumed = partialmethod(_pass_on, "resumed")
    runs = partialmethod(_pass_on, "runs")

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[None]:
        with ExitStack() as stack:
            for each in self.listeners:
                stack.enter_context(each.progress(what, total))
            yield
