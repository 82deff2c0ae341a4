"""`heft sweep`: many configurations of the last stage, and the table of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from heft.cli.options import OutputDirectory, Overrides, RecipeFile
from heft.text.units import percent

if TYPE_CHECKING:
    from heft.sweep.results import Result


def sweep(
    recipe: RecipeFile,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    output: OutputDirectory = None,
) -> None:
    """Train many configurations of a recipe's last stage side by side and rank them on validation rows."""
    from heft.cli.show import ConsoleReporter, explain_interrupts, results_table
    from heft.recipe.files import load_recipe
    from heft.recipe.grid import require_sweep
    from heft.run.begun import require_free

    loaded = load_recipe(recipe, override, output=str(output) if output else None)
    require_sweep(loaded)  # both again in the sweep; here they are reported before torch takes its seconds
    require_free(loaded.output_dir)
    reporter = ConsoleReporter()
    reporter.note("importing torch and transformers")
    from heft.sweep.run import sweep as run_sweep

    with explain_interrupts(loaded.output_dir, reporter):
        found = run_sweep(loaded, reporter)
    reporter.console.print(sweep_table(found.results))
    reporter.note(f"{len(found.results)} configurations in {found.seconds:.0f} seconds; ranked by validation loss")
    if found.evaluation is not None:
        reporter.note("the winner on the evaluation split, which was not used to choose it:")
        reporter.console.print(results_table([found.evaluation]))
    reporter.note(f"sweep: {found.directory}   winner: heft train {found.directory / 'winner.yaml'}")


def sweep_table(results: "Sequence[Result]") -> Table:
    """Every configuration on the validation rows, best first; settings that are the same in all are not shown."""
    from heft.sweep.report import state

    title = f"sweep: {results[0].n:,} validation rows"
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
