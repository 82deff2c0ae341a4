"""The results of a sweep as files: results.json, results.csv and sweep.svg. heft.cli.sweep prints the table."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from heft.storage.atomic import finite, to_json, write_text
from heft.sweep.results import Result
from heft.text.svg import BOTTOM, CHARACTER, RIGHT, TOP, WIDTH, Axis, Drawing, axis, shortened
from heft.text.units import percent

_ROW = 30
"""Height of a configuration in the drawing."""


def write_results(folder: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Write results.json (with `about` on top) and results.csv, best first."""
    write_text(folder / "results.json", to_json({**about, "results": finite([asdict(r) for r in results])}))
    swept = list(results[0].values)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    measured = ("validation_expected_errors", "validation_loss", "validation_accuracy", "low", "high", "n")
    table.writerow(["place", "name", *swept, *measured, "steps", "parameters", "state"])
    for place, r in enumerate(results, start=1):
        values = [_text(r.values[key]) for key in swept]
        found = (r.expected_errors, r.loss, r.accuracy, *(r.interval or (None, None)), r.n)
        table.writerow([place, r.name, *values, *found, r.steps, r.trainable_parameters, state(r)])
    write_text(folder / "results.csv", text.getvalue())


def state(result: Result) -> str:
    """How its training ended, in a word."""
    return "diverged" if result.diverged else "early_stopping" if result.stopped_early else "finished"


def label(result: Result) -> str:
    """A configuration in words, such as `rank 4, positions l7`."""
    return ", ".join(f"{key} {_text(value)}" for key, value in result.values.items())


def ranking(results: Sequence[Result]) -> str:
    """What they are ranked by, in words."""
    return "validation loss" if all(result.expected_errors is None for result in results) else "expected errors"


def plot(path: Path, results: Sequence[Result], title: str) -> None:
    """Draw what every configuration is ranked by, best on top, with its accuracy where there is one."""
    shown = [result for result in results if result.ranked_by is not None] or list(results)
    what, scale = {
        "validation loss": ("validation loss per answer token", 1),
        "expected errors": ("expected errors on the validation rows, %", 100),
    }[ranking(results)]
    x = axis(what, [scale * (result.ranked_by or 0.0) for result in shown])
    rows = len(results) + 1  # the title takes the first
    drawing = Drawing(x, Axis("", 0, rows), TOP + BOTTOM + _ROW * rows, left=RIGHT, y_axis=False)
    most = int((WIDTH - 2 * RIGHT) / CHARACTER)
    drawing.text(RIGHT, TOP + 8, shortened(title, most))
    for place, result in enumerate(results, start=1):
        text = ", ".join(part for part in (f"{result.name}  {label(result)}", _end(result)) if part)
        drawing.text(RIGHT, TOP + _ROW * place + 8, shortened(text, most))
        if result.ranked_by is not None:
            drawing.dot((scale * result.ranked_by, rows - place - 0.6), "fill a", 4)
    write_text(path, drawing.file(title))


def _end(result: Result) -> str:
    if result.diverged:
        return "diverged"
    return "" if result.accuracy is None else f"accuracy {percent(result.accuracy)}"


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
