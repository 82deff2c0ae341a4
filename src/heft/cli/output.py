"""What a command prints, as `--quiet` and `--json` ask for.

Without them everything goes to standard output. With `--quiet` it is warnings, on standard error, and the last lines.
With `--json` it is one document (heft.cli.documents) on standard output, and progress goes to standard error.
"""

import time

from pydantic import BaseModel

from heft.cli.show import ConsoleReporter, PlainConsole, print_json
from heft.runtime import distributed
from heft.runtime.reporter import Reporter


class Output:
    """The output of one command.

    Args:
        quiet, as_json: the options; a document leaves no line to be quiet about but progress.
        beside: whether all lines go to standard error, since the command's own output is on standard output.

    Attributes:
        reporter: for the work: it shows what the options leave, and keeps the warnings.
    """

    def __init__(self, quiet: bool = False, as_json: bool = False, beside: bool = False):
        self.quiet, self.as_json, self._beside = quiet, as_json, beside
        console = PlainConsole(soft_wrap=True, stderr=as_json or beside, quiet=not distributed.is_main())
        self.reporter = QuietReporter() if quiet else ConsoleReporter(console)
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.monotonic() - self._started

    def note(self, text: str) -> None:
        """A line on the way."""
        self.reporter.note(text)

    def show(self, shown: object) -> None:
        """A table, or what else rich prints; not where one is quiet."""
        if not self.quiet:
            self.reporter.console.print(shown)

    def last(self, *lines: str) -> None:
        """The last lines, which stay where one is quiet."""
        if self.as_json:
            return
        for line in lines:
            PlainConsole(soft_wrap=True, stderr=self._beside, quiet=not distributed.is_main()).print(line)

    def document(self, kind: type[BaseModel], **values: object) -> None:
        """The document, checked against its schema, with the seconds and the warnings; nothing without `--json`."""
        if self.as_json and distributed.is_main():
            warnings = list(dict.fromkeys(self.reporter.warnings))
            found = kind(seconds=round(self.seconds, 3), warnings=warnings, **values)
            print_json(found.model_dump(mode="json"))


class QuietReporter(Reporter):
    """Shows warnings alone, on standard error."""

    def __init__(self):
        self.warnings: list[str] = []
        self.console = PlainConsole(quiet=True)

    def warn(self, text: str) -> None:
        """A line of its own, which is kept too."""
        self.warnings.append(text)
        PlainConsole(soft_wrap=True, stderr=True, quiet=not distributed.is_main()).print(f"warning: {text}")
