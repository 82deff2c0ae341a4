"""What is left of a sweep: results.json, results.csv and sweep.png. The table on the screen is in heft.cli.sweep."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from heft.storage.atomic import to_json, write_text
from heft.sweep.results import Result


def write_results(folder: Path, results: Sequence[Result], about: dict[str, Any]) -> None:
    """Write results.json (with `about` on top) and results.csv, best first."""
    write_text(folder / "results.json", to_json({**about, "results": [_finite(asdict(r)) for r in results]}))
    swept = list(results[0].values)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        [
            "place",
            "name",
            *swept,
            "validation_loss",
            "validation_accuracy",
            "low",
            "high",
            "n",
            "steps",
            "parameters",
            "state",
        ]
    )
    for place, r in enumerate(results, start=1):
        values = [_text(r.values[key]) for key in swept]
        low, high = r.interval or (None, None)
        table.writerow(
            [place, r.name, *values, r.loss, r.accuracy, low, high, r.n, r.steps, r.trainable_parameters, state(r)]
        )
    write_text(folder / "results.csv", text.getvalue())


def state(result: Result) -> str:
    """How its training ended, in a word."""
    return "diverged" if result.diverged else "early_stopping" if result.stopped_early else "finished"


def label(result: Result) -> str:
    """A configuration in words, such as `rank 4, positions l7`."""
    return ", ".join(f"{key} {_text(value)}" for key, value in result.values.items())


def plot(path: Path, results: Sequence[Result], title: str) -> None:
    """Validation loss of every configuration, best on top, with its accuracy beside it where there is one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [result for result in results if result.loss is not None]
    has_accuracy = any(result.accuracy is not None for result in shown)
    figure = Figure(figsize=(10, 1.6 + 0.32 * max(3, len(results))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 + has_accuracy, sharey=True, squeeze=False)[0]
    places = range(len(results))
    axes[0].scatter([r.loss for r in shown], range(len(shown)), color="#1f5a99", zorder=3)
    axes[0].set_xlabel("validation loss, nats per answer token")
    axes[0].set_yticks(list(places), [f"{r.name}  {label(r)}{' (diverged)' * r.diverged}" for r in results], fontsize=8)
    axes[0].invert_yaxis()
    if has_accuracy:
        accuracy = [100 * r.accuracy for r in shown]
        spread = [
            [100 * (r.accuracy - r.interval[0]) for r in shown],
            [100 * (r.interval[1] - r.accuracy) for r in shown],
        ]
        axes[1].errorbar(accuracy, range(len(shown)), xerr=spread, fmt="o", color="#b35900", capsize=2, zorder=3)
        axes[1].set_xlabel("validation accuracy, %, with 95 % interval")
    for ax in axes:
        ax.grid(axis="both", color="#dddddd", linewidth=0.6)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130, format="png")


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return values | {"losses": [x if abs(x) < float("inf") else None for x in values["losses"]]}
