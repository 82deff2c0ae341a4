"""The console: tables, and progress as a bar in a terminal or as plain lines elsewhere."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from heft.cli.estimate import Estimate
from heft.cli.facts import facts
from heft.cli.runs_view import RunsView
from heft.runtime import distributed, signals
from heft.runtime.reporter import Reporter
from heft.text.command import command
from heft.text.escape import escape_controls
from heft.text.units import interval, percent, several

if TYPE_CHECKING:
    from heft.results.summary import StageSummary
    from heft.runtime.reporter import AdapterRow, Piece, RunNews

_SECONDS_BETWEEN_LINES = 10.0


class PlainConsole(Console):
    """Prints text as it is: no markup, no emoji, and no character that a terminal obeys (heft.text.escape)."""

    def __init__(self, **options):
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options) -> Text:
        """Every text that is printed, and every cell and title of a table, comes through here."""
        return super().render_str(escape_controls(text), **options)


class ConsoleReporter(Reporter):
    """Shows a run on standard output; of several processes, the main one does.

    Attributes:
        warnings: that were heard so far.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or PlainConsole(soft_wrap=True, quiet=not distributed.is_main())
        self.warnings: list[str] = []
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0
        self._loss = ""
        self.estimate = Estimate()
        self._runs = RunsView(self.console, table)

    def note(self, text: str) -> None:
        """A line of its own."""
        self.console.print(escape_controls(text), markup=False, emoji=False)

    def warn(self, text: str) -> None:
        """A line of its own, which is kept too."""
        self.warnings.append(text)
        self.note(f"warning: {text}")

    def overview(self, stage: str, rows: "Sequence[AdapterRow]") -> None:
        """The table before a stage."""
        shown = ((row.name, row.method, row.state, f"{row.parameters:,}") for row in rows)
        self.console.print(table(f"stage {stage}", ("adapter", "kind", "state"), ["parameters"], shown))

    def expected(self, pieces: "Sequence[Piece]") -> None:
        """Kept, for the time that is left."""
        self.estimate.expect(pieces)

    def resumed(self, stage: str, step: int) -> None:
        """Kept likewise."""
        self.estimate.resumed(stage, step)

    def runs(self, going: "Sequence[RunNews]", done: int, total: int) -> None:
        """All of them in one view."""
        self._runs.show(going, done, total)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[None]:
        """A bar in a terminal; elsewhere a line every few seconds, with the same facts."""
        self._last_line, self._loss = time.monotonic(), ""
        self.estimate.begin(what, total)
        try:
            with self._bar_for(what, total):
                yield
        finally:
            self.estimate.end()

    @contextmanager
    def _bar_for(self, what: str, total: int) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, TextColumn("{task.fields[facts]}", markup=False), console=self.console) as self._bar:
            self._task = self._bar.add_task(escape_controls(what), total=total, facts="")
            try:
                yield
            finally:
                self._bar = None

    def step(self, what: str, done: int, total: int) -> None:
        """Moves the bar, or prints a line when the last is some seconds old."""
        self.estimate.step(done)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, facts=facts(self.estimate, self._loss))
        elif not self.console.is_terminal and (
            done == total or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES
        ):
            self._last_line = time.monotonic()
            self.note(f"{what} {done}/{total}  {facts(self.estimate, self._loss)}")

    def metrics(self, values: dict) -> None:
        """Keeps the loss for the next step; of a sweep's many configurations nothing is shown."""
        if "configuration" in values:
            return
        if "loss" in values:
            self._loss = f"loss {values['loss']:.4f}"
        if "eval_loss" in values:
            self.note(f"{values['stage']} step {values['step']}: validation loss {values['eval_loss']:.4f}")


def resuming(typed: Sequence[str]) -> str:
    """The command that goes on where the one that was typed ends; `typed` are its words behind `heft`."""
    words = [word for word in typed if word not in ("--resume", "--overwrite")]
    end = words.index("--") if "--" in words else len(words)  # behind it there are no options
    return command(*words[:end], "--resume", *words[end:])


@contextmanager
def explain_interrupts(
    directory: Path, reporter: Reporter, resume: str | None = None, overwrite: bool = False
) -> Iterator[None]:
    """Around work that fills `directory`: after Ctrl-C or SIGTERM, say what is saved there.

    `resume` is the command that resumes the work; None where it begins again. With `overwrite` the directory may still
    hold what was to be replaced.
    """
    old = _written(directory) if overwrite else None
    with signals.handling():
        try:
            yield
        except KeyboardInterrupt:
            if old is not None and _written(directory) == old:
                reporter.note(f"interrupted before anything was replaced; {directory} is as it was")
            elif directory.is_dir() and resume is None:
                reporter.note(
                    f"interrupted; this cannot be resumed: run it again with --overwrite, which replaces {directory}"
                )
            elif directory.is_dir():
                reporter.note(f"interrupted; progress is saved in {directory}. Resume with: {resume}")
            raise


def _written(directory: Path) -> tuple[int, int] | None:
    """What tells one manifest in a directory from another; None without any."""
    try:
        found = (directory / "manifest.json").stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def table(
    title: str, texts: Sequence[str], figures: Sequence[str], rows: Iterable[Sequence[str]], may_fold: bool = False
) -> Table:
    """A table whose first columns hold words, and the others figures, which stand on the right and never wrap.

    It is as wide as it is, on a narrow screen and in a pipe too, since figures that are cut off mislead; but for one
    that `may_fold`, as a view has to that changes in its place.
    """
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in texts:
        made.add_column(heading)
    for heading in figures:
        made.add_column(heading, justify="right", no_wrap=True)
    rows = list(rows)
    for row in rows:
        made.add_row(*row)
    if not may_fold:
        columns = zip((*texts, *figures), *rows, strict=True)
        made.width = sum(3 + max(map(_width, column)) for column in columns) - 1  # 3: spaces and border
    return made


def _width(cell: str) -> int:
    """How many columns of a terminal a cell takes; those of some scripts take two a character."""
    return max(map(cell_len, escape_controls(cell).split("\n")))


def results_table(stages: "Sequence[StageSummary]") -> Table:
    """Accuracy after each stage with its interval, what it is to be held against, and what the stage cost.

    That is the majority class and balanced accuracy of choices, and of generated answers the loss of the reference
    answers (nats a token), ROUGE-L and chrF (of 100).
    """
    generated = any(stage.loss is not None for stage in stages)
    beside = ("loss", "ROUGE-L", "chrF") if generated else ("majority", "balanced")
    rows = (
        (
            stage.name,
            percent(stage.accuracy),
            interval(stage.interval),
            *(_of_texts(stage) if generated else (percent(stage.majority), percent(stage.balanced_accuracy))),
            f"{stage.trainable_parameters:,}",
            f"{stage.seconds:.0f}",
        )
        for stage in stages
    )
    figures = ("accuracy", "95 % interval", *beside, "parameters", "seconds")
    return table(f"results on {several(stages[0].n, 'evaluation example')}", ["after"], figures, rows)


def results_line(stages: "Sequence[StageSummary]") -> str:
    """The same in one line, without what it cost."""
    shown = (f"{stage.name} {percent(stage.accuracy)} ({interval(stage.interval)})" for stage in stages)
    return f"accuracy on {several(stages[0].n, 'evaluation example')}: {', '.join(shown)}"


def _of_texts(stage: "StageSummary") -> tuple[str, str, str]:
    likeness = ("–" if share is None else f"{100 * share:.1f}" for share in (stage.rouge_l, stage.chrf))
    return "–" if stage.loss is None else f"{stage.loss:.3f}", *likeness


def print_json(values: dict) -> None:
    """Print JSON on standard output, with no character that a terminal obeys."""
    print(escape_controls(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)))
