"""`heft sweep`: many configurations of the last stage, and the table of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heft.cli.options import AsJson, OutputDirectory, Overrides, Overwrite, Quiet, RecipeFile
from heft.text.command import command
from heft.text.units import interval, percent, several

if TYPE_CHECKING:
    from rich.table import Table

    from heft.sweep.results import Result


def sweep(
    recipe: RecipeFile,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    output: OutputDirectory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train many configurations of a recipe's last stage side by side and rank them on validation rows."""
    from heft.cli.documents import SweepDocument, SweepRow
    from heft.cli.output import Output
    from heft.cli.show import explain_interrupts, results_line, results_table
    from heft.recipe.files import load_recipe
    from heft.recipe.grid import require_sweep
    from heft.run.replace import require_output

    loaded = load_recipe(recipe, override, output)
    require_sweep(loaded)  # both again in the sweep; here they are reported before torch takes its seconds
    require_output(loaded, overwrite)
    out = Output(quiet, as_json)
    out.note("importing torch and transformers")
    from heft.sweep.report import ranking
    from heft.sweep.run import sweep as run_sweep

    with explain_interrupts(loaded.output_dir, out.reporter, overwrite=overwrite):
        found = run_sweep(loaded, out.reporter, overwrite)
    out.show(_table(found.results))
    by = ranking(found.results)
    out.note(f"{len(found.results)} configurations in {found.seconds:.0f} seconds; ranked by {by}")
    if found.evaluation is not None:
        out.note("the winner on the evaluation split, which was not used to choose it:")
        out.show(results_table([found.evaluation]))
        if quiet:
            out.last(results_line([found.evaluation]))
    out.last(f"sweep: {found.directory}   winner: {command('train', found.directory / 'winner.yaml')}")
    out.document(
        SweepDocument,
        sweep=str(found.directory),
        winner=str(found.directory / "winner.yaml"),
        adapter=str(found.directory / "adapter"),
        results=[{key: getattr(result, key) for key in SweepRow.model_fields} for result in found.results],
        evaluation=found.evaluation,
    )


def _table(results: "Sequence[Result]") -> "Table":
    """Every configuration on the validation rows, best first; settings that are the same in all are not shown."""
    from heft.cli.show import table
    from heft.sweep.report import state

    swept = [key for key in results[0].values if len({str(r.values[key]) for r in results}) > 1]
    columns = {"": [r.name for r in results]}
    columns |= {key: ["null" if r.values[key] is None else str(r.values[key]) for r in results] for key in swept}
    figures = {}
    if any(r.accuracy is not None for r in results):
        figures["expected\nerrors"] = [percent(r.expected_errors) for r in results]
        figures["accuracy"] = [percent(r.accuracy) for r in results]
        figures["95 % interval"] = [interval(r.interval) for r in results]
    figures["loss"] = ["–" if r.loss is None else f"{r.loss:.4f}" for r in results]
    if len({r.steps for r in results}) > 1:
        figures["steps"] = [f"{r.steps:,}" for r in results]
    if any(state(r) != "finished" for r in results):
        figures["end"] = ["" if state(r) == "finished" else state(r) for r in results]
    rows = zip(*columns.values(), *figures.values(), strict=True)
    return table(f"sweep: {several(results[0].n, 'validation row')}", list(columns), list(figures), rows)
