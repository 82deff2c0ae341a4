"""`heft report`: where the page is."""

from collections.abc import Sequence
from pathlib import Path

import typer

from heft.report.page import write_report
from heft.text.escape import escape_controls


def run_report(given: Sequence[str | Path], output: Path, markdown: Path | None) -> None:
    """Write a report of runs, stages of runs (`RUN:stage`) and studies, and say where."""
    write_report(given, output, markdown)
    typer.echo(escape_controls(f"report: {output}" + (f"   table: {markdown}" if markdown is not None else "")))
