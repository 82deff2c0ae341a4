"""In place of a search's directory, where trials are trained elsewhere: what would be logged is kept, to be sent."""

from pathlib import Path
from typing import Any

from heft.run.directory import RunDirectory


class Kept(RunDirectory):
    """Writes nothing.

    Attributes:
        logged: the lines of metrics.jsonl.
    """

    def __init__(self) -> None:
        super().__init__(Path("nowhere"), writes=False)
        self.logged: list[dict[str, Any]] = []

    def metrics(self, values: dict) -> None:
        """Keep a line."""
        self.logged.append(values)
