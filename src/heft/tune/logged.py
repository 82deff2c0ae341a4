"""What is told and logged of a trial."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heft.run.directory import RunDirectory
from heft.runtime.reporter import Reporter


class Quiet(Reporter):
    """Passes on progress alone: of a trial's many notes and warnings a person wants none."""

    def __init__(self, reporter: Reporter):
        self._to = reporter

    def progress(self, what: str, total: int):
        return self._to.progress(what, total)

    def step(self, what: str, done: int, total: int) -> None:
        self._to.step(what, done, total)


class Logged(Reporter):
    """Writes the metrics of a trial into metrics.jsonl, with the trial's key."""

    def __init__(self, directory: RunDirectory, keys: Sequence[str]):
        self._directory, self._keys = directory, list(keys)

    def metrics(self, values: dict) -> None:
        name = values.get("configuration")  # of several side by side: c00, c01, …
        key = self._keys[int(name[1:]) if name else 0]
        self._directory.metrics({**values, "configuration": key})


class Kept(RunDirectory):
    """In place of a search's directory, where trials are trained elsewhere: writes nothing, and keeps what is logged.

    Attributes:
        logged: the lines of metrics.jsonl.
    """

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), writes=False)
        self.logged: list[dict[str, Any]] = []

    def metrics(self, values: dict) -> None:
        """Keep a line."""
        self.logged.append(values)
