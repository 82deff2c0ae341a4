"""What `heft.train` returns: a finished run, which shows its table where it is printed or displayed."""

from dataclasses import dataclass
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from heft.errors import HeftError
from heft.results.records import Record, read_records
from heft.results.summary import StageSummary
from heft.run.directory import REPORT
from heft.text.escape import escape_controls

_WIDTH = 160


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        directory: of the run.
        stages: figures of the base, then of the model after each stage.
    """

    directory: Path
    stages: list[StageSummary]

    @property
    def adapter(self) -> Path:
        """The adapter directory, which `heft.load` and the commands take too."""
        return self.directory / "adapter"

    @property
    def accuracy(self) -> float:
        """After the last stage."""
        return self.stages[-1].accuracy

    def records(self, stage: str | None = None) -> list[Record]:
        """A record of every evaluated row after a stage, or "base"; None for the last stage.

        Raises:
            HeftError: there is no such stage.
        """
        names = [each.name for each in self.stages]
        if stage is not None and stage not in names:
            raise HeftError(f"the run has no stage {stage!r}; it has {', '.join(names)}")
        return read_records(self.directory / "records" / f"{stage or names[-1]}.jsonl")

    def report(self, output: str | Path | None = None) -> Path:
        """Write the run as one HTML page, and return its path; None writes report.html in the run's directory.

        Raises:
            HeftError: it cannot be written there.
        """
        from heft.report.page import write_report

        path = self.directory / REPORT if output is None else Path(output)
        write_report([self.directory], path)
        return path

    def load(self, **options: Any) -> Any:
        """The adapted model and its tokenizer; options as for `heft.load`."""
        from heft.adapters.load import load

        return load(self.adapter, **options)

    def predict(self, rows: Any, **options: Any) -> Any:
        """Predictions on rows; options as for `heft.predict`."""
        from heft.api.predict import predict

        return predict(self.adapter, rows, **options)

    def __fspath__(self) -> str:
        """The run's directory, so that a result stands wherever a path is expected."""
        return str(self.directory)

    def __str__(self) -> str:
        from heft.cli.show import PlainConsole, results_table

        text = StringIO()
        PlainConsole(file=text, width=_WIDTH, force_terminal=False).print(results_table(self.stages))
        lines = [line.rstrip() for line in text.getvalue().strip("\n").split("\n")]
        return "\n".join([*lines, "", f"run: {escape_controls(str(self.directory))}"])

    def _repr_html_(self) -> str:
        """The same table in a notebook."""
        from heft.cli.show import results_table

        table = results_table(self.stages)
        head = "".join(f"<th>{_cell(column.header)}</th>" for column in table.columns)
        rows = zip(*(column.cells for column in table.columns), strict=True)
        body = "".join(f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>" for row in rows)
        caption = f"<caption>{_cell(table.title)}</caption>"
        table_html = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"{table_html}<p>run: {_cell(self.directory)}</p>"


def _cell(value: object) -> str:
    return escape(escape_controls(str(value)))
