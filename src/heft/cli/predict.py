"""`heft predict`: a model's answers to the rows of a table."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heft.cli.options import AsJson, Base, Encoding, Overrides, Quiet, ServedName, TrustRemoteCode, Url
from heft.errors import HeftError

if TYPE_CHECKING:
    from heft.cli.output import Output
    from heft.prediction.predict import Predictions
    from heft.results.metrics import Metrics


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run, its adapter directory, ORG/NAME@REVISION on the Hub, or a recipe, whose base model answers.",
        ),
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
    encoding: Encoding = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave the prediction of rows that cannot be used empty.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per forward pass.")] = None,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
    url: Url = None,
    served_model_name: ServedName = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Answer the rows of a table: its columns come out with the prediction and the probability of each label.

    The right answer need not be in the table; where it is, the accuracy is printed at the end.
    """
    from heft.cli.output import Output
    from heft.cli.remote import require_url, served_name
    from heft.prediction.output import output_rows, require_place, require_writable, write_rows
    from heft.prediction.prediction import require_free_columns
    from heft.tasks.table import read_table

    require_url(url, served_model_name)
    if output is not None:
        require_place(output, rows)
    elif as_json:
        raise HeftError("--json prints one document on standard output, so the rows need a file: --output FILE")
    given = override if batch_size is None else [*override, f"evaluation.batch_size={batch_size}"]
    table = read_table(
        rows, split=split, encoding=encoding
    )  # first: what is wrong with it is said before torch is imported
    require_free_columns(table)
    if output is not None:
        require_writable(output, table)
    from heft.prediction.opening import opening

    found = opening(model, stages, given, base, trust_remote_code)
    from heft.models.load import quiet as quiet_libraries
    from heft.prediction.predict import predict_rows

    quiet_libraries()
    out = Output(quiet, as_json, beside=True)
    if url is None:
        predictions = predict_rows(found.load(), table, out.reporter, skip_bad_rows)
    else:
        from heft.serving.client import ServerClient
        from heft.serving.remote import RemoteModel

        name = served_model_name or served_name(found.directory, stages, found.settings.model.name)
        remote = RemoteModel.of(ServerClient(url, name), found.settings, found.directory, found.names)
        task, evaluation = found.settings.task, found.settings.evaluation
        predictions = remote.predict(task, evaluation, table, out.reporter, skip_bad_rows)
    answered = output_rows(predictions)
    if output is not None:
        write_rows(output, answered)
    else:
        _print(answered)
    done, *warnings = predictions.notes
    out.note(done)
    for line in warnings:
        out.reporter.warn(line)
    if predictions.metrics is not None:
        out.last(_accuracy(predictions.metrics))
    if output is not None:
        out.last(f"predictions: {output}")
        _document(out, predictions, output)


def _print(rows: list[dict[str, Any]]) -> None:
    """JSON Lines on standard output; whoever reads them may stop."""
    from heft.prediction.output import print_lines

    try:
        print_lines(rows, sys.stdout)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain once more at its end


def _accuracy(metrics: "Metrics") -> str:
    from heft.text.units import interval, percent, several

    figures = f"accuracy {percent(metrics.accuracy)} ({interval(metrics.interval)})"
    return f"{figures} on the {several(metrics.n, 'row')} that {'has' if metrics.n == 1 else 'have'} an answer"


def _document(out: "Output", predictions: "Predictions", output: Path) -> None:
    from heft.cli.documents import PredictDocument

    metrics = predictions.metrics
    out.document(
        PredictDocument,
        output=str(output),
        rows=len(predictions.rows),
        unusable=len(predictions.faults),
        n=0 if metrics is None else metrics.n,
        accuracy=None if metrics is None else metrics.accuracy,
        interval=None if metrics is None else metrics.interval,
    )
