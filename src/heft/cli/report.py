"""`heft report`: where the page is."""

from collections.abc import Sequence
from pathlib import Path

import typer

from heft.report.page import write_report


def run_report(paths: Sequence[Path], output: Path, markdown: Path | None) -> None:
    """Write a report of run and study directories and say where."""
    write_report(paths, output, markdown)
    typer.echo(f"report: {output}" + (f"   table: {markdown}" if markdown is not None else ""))
