"""`heft sweep`: the table of configurations, and where the winner is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from heft.cli.show import ConsoleReporter, results_table, saying_what_stays
from heft.recipe.files import load_recipe
from heft.recipe.grid import require_sweep
from heft.run.begun import require_free
from heft.text.units import percent

if TYPE_CHECKING:
    from heft.sweep.results import Result


def run_sweep(recipe: Path, overrides: Sequence[str], output: Path | None) -> None:
    """Run a recipe's sweep and print what it found."""
    loaded = load_recipe(recipe, overrides, output=str(output) if output else None)
    require_sweep(loaded)  # both again in the sweep; here they are said before torch takes its seconds
    require_free(loaded.output_dir)
    reporter = ConsoleReporter()
    reporter.note("importing torch and transformers")
    from heft.sweep.run import sweep

    with saying_what_stays(loaded.output_dir, reporter):
        found = sweep(loaded, reporter)
    reporter.console.print(sweep_table(found.results))
    reporter.note(f"{len(found.results)} configurations in {found.seconds:.0f} seconds; ranked by held-back loss")
    if found.evaluation is not None:
        reporter.note("the winner on the evaluation split, which took no part in the choice:")
        reporter.console.print(results_table([found.evaluation]))
    reporter.note(f"sweep: {found.directory}   winner: heft train {found.directory / 'winner.yaml'}")


def sweep_table(results: "Sequence[Result]") -> Table:
    """Every configuration on the held-back rows, best first; what is the same for all is left to results.csv."""
    from heft.sweep.report import state

    title = f"sweep: {results[0].n:,} rows held back from training"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    swept = [key for key in results[0].values if len({str(r.values[key]) for r in results}) > 1]
    columns = {"": [r.name for r in results]}
    columns |= {key: ["null" if r.values[key] is None else str(r.values[key]) for r in results] for key in swept}
    columns["loss"] = ["–" if r.loss is None else f"{r.loss:.4f}" for r in results]
    columns["accuracy"] = [percent(r.accuracy) for r in results]
    columns["95 % interval"] = [_interval(r.interval) for r in results]
    columns["steps"] = [f"{r.steps:,}" for r in results]
    ends = [state(r) for r in results]
    if len(set(columns["steps"])) == 1:
        del columns["steps"]
    if set(ends) != {"finished"}:
        columns["end"] = ["" if end == "finished" else end for end in ends]
    for heading in columns:
        is_text = heading in ("", *swept, "end")
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=heading not in swept)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f} %"
