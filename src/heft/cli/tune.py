"""`heft tune`: a search within a budget, the table of its arms, and the run of the best."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from heft.cli.options import (
    AsJson,
    CpusPerRun,
    GpusPerRun,
    OutputDirectory,
    Overrides,
    Overwrite,
    Quiet,
    Ray,
    RecipeFile,
    RunsAtOnce,
)
from heft.cli.ray import ray_options

if TYPE_CHECKING:
    from rich.table import Table

    from heft.tune.run import Tuned


def tune(
    recipe: RecipeFile,
    budget: Annotated[
        str,
        typer.Option(
            metavar="AMOUNT",
            help="What the search may spend: a time (90s, 30m, 2h), FLOPs as spent (2e15flop), or as many as passes of"
            " plain LoRA over all rows (3epochs).",
        ),
    ],
    override: Overrides = [],  # noqa: B006 - typer wants a list
    output: OutputDirectory = None,
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Train and evaluate the best recipe at the end, on all rows.")
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the finished trials in the directory, or start.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    ray: Ray = None,
    gpus_per_run: GpusPerRun = None,
    cpus_per_run: CpusPerRun = None,
    runs_at_once: RunsAtOnce = None,
) -> None:
    """Choose method, settings and the switch between stages on validation rows, within a budget."""
    from heft.cli.documents import TuneDocument
    from heft.cli.output import Output
    from heft.cli.show import explain_interrupts, results_line, results_table, resuming
    from heft.recipe.files import load_recipe
    from heft.runtime import signals
    from heft.tune.budget import parse_budget
    from heft.tune.ready import require_places_for, require_ready

    on_ray = ray_options(ray, gpus_per_run, cpus_per_run, runs_at_once)
    loaded, amount = load_recipe(recipe, override, output), parse_budget(budget)
    require_ready(loaded, amount, resume, overwrite)  # again in the search; here before torch takes its seconds
    require_places_for(amount, on_ray)
    out = Output(quiet, as_json)
    out.note("importing torch and transformers")
    from heft.tune.report import arm_rows
    from heft.tune.run import tune as run_search

    with explain_interrupts(loaded.output_dir, out.reporter, resuming(sys.argv[1:]), overwrite):
        found = run_search(loaded, amount, out.reporter, resume, overwrite, run, on_ray)
        out.show(_table(found))
        out.note(found.findings.words)
        if found.interrupted:
            out.last(f"best so far: {found.directory / 'best.yaml'}")
            raise signals.Stopped
    if found.run is not None:
        out.show(results_table(found.run.stages))
        if quiet:
            out.last(results_line(found.run.stages))
    ran = "" if found.run is None else f"   run: {found.run.directory}"
    out.last(f"search: {found.directory}   best: {found.directory / 'best.yaml'}{ran}")
    out.document(
        TuneDocument,
        search=str(found.directory),
        best=str(found.directory / "best.yaml"),
        chosen_by=found.findings.chosen_by.name,
        winner=found.findings.winner.arm,
        verdict=found.findings.words,
        arms=arm_rows(found.findings),
        run=None if found.run is None else str(found.run.directory),
        stages=None if found.run is None else found.run.stages,
    )


def _table(found: "Tuned") -> "Table":
    """The arms, best first."""
    from heft.cli.show import table
    from heft.text.units import several
    from heft.tune.report import SHOWN, table_rows

    findings = found.findings
    columns = [0, 1, 2, 3, SHOWN[findings.unit]]  # table.md has the others
    rows = [[row[column] for column in columns] for row in table_rows(findings)]
    titles = ["arm", *findings.columns]
    title = f"{findings.budget}: {several(findings.compared_rows, 'validation row')}; cost of training each alone"
    return table(title, ["arm"], [titles[column] for column in columns[1:]], rows)
