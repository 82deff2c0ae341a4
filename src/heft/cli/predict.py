"""`heft predict`: a model's answers to the rows of a table."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heft.cli.options import Base, Overrides, TrustRemoteCode

if TYPE_CHECKING:
    from heft.prediction.predict import Predictions


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run, its adapter directory, or a recipe, whose base model answers.")
    ],
    rows: Annotated[
        str,
        typer.Argument(metavar="ROWS", help="A file (JSON Lines, JSON, CSV, TSV, Parquet) or a data set on the Hub."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write .csv, .tsv, .jsonl or .parquet (default: JSON Lines on standard output).",
        ),
    ] = None,
    stages: Annotated[
        list[str],
        typer.Option(metavar="STAGE", help="A stage whose adapter is on, or base (default: all); repeatable."),
    ] = [],  # noqa: B006 - typer wants a list
    split: Annotated[str | None, typer.Option(help="Split of a data set on the Hub.")] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave the prediction of rows that cannot be used empty.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per forward pass.")] = None,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
) -> None:
    """Answer the rows of a table: its columns come out with the prediction and the probability of each label.

    The right answer need not be in the table; where it is, the accuracy is printed at the end.
    """
    from heft.cli.show import ConsoleReporter, PlainConsole
    from heft.prediction.opening import opening
    from heft.prediction.output import output_rows, require_free_columns, require_place, write_rows
    from heft.tasks.table import read_table

    if output is not None:
        require_place(output, rows)
    given = override if batch_size is None else [*override, f"evaluation.batch_size={batch_size}"]
    found = opening(model, stages, given, base, trust_remote_code)
    table = read_table(rows, split=split)
    require_free_columns(table)
    from heft.models.load import quiet
    from heft.prediction.predict import predict_rows

    quiet()
    reporter = ConsoleReporter(PlainConsole(soft_wrap=True, stderr=True))
    predictions = predict_rows(found.load(), table, reporter, skip_bad_rows)
    answered = output_rows(predictions)
    if output is not None:
        write_rows(output, answered)
    else:
        _print(answered)
    for line in _lines(predictions):
        reporter.note(line)
    if output is not None:
        reporter.note(f"predictions: {output}")


def _print(rows: list[dict[str, Any]]) -> None:
    """JSON Lines on standard output; whoever reads them may stop."""
    from heft.prediction.output import print_lines

    try:
        print_lines(rows, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain once more at its end


def _lines(predictions: "Predictions") -> list[str]:
    from heft.text.units import interval, percent

    metrics = predictions.metrics
    lines = list(predictions.notes)
    if metrics is not None:
        figures = f"accuracy {percent(metrics.accuracy)} ({interval(metrics.interval)})"
        lines.append(f"{figures} on the {metrics.n:,} rows that have an answer")
    return lines
