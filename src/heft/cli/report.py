"""`heft report`: runs and studies as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_OR_STUDY...", help="Directories of runs and studies; RUN:stage for a stage of a run."
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The page to write.")] = Path("report.html"),
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tables as Markdown too.")] = None,
) -> None:
    """Write runs as one self-contained HTML page: verdict, tables, curves, examples, settings."""
    from heft.report.page import write_report
    from heft.text.escape import escape_controls

    write_report(runs, output, markdown)
    typer.echo(escape_controls(f"report: {output}" + (f"   table: {markdown}" if markdown is not None else "")))
