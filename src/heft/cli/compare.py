"""`heft compare`: finished runs question by question, or a study that is run first."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heft.cli.options import AsJson, CpusPerRun, GpusPerRun, OutputDirectory, Overrides, Ray, RunsAtOnce
from heft.cli.ray import ray_options
from heft.errors import HeftError

if TYPE_CHECKING:
    from heft.cli.show import ConsoleReporter
    from heft.compare.results import Comparison


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Run directories, RUN:stage for a stage of one; or one study: its directory, or its YAML file or the "
            "name of one that comes with heft (`heft recipes`), which is then run.",
        ),
    ],
    reference: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Baseline that all others are compared with (default: all pairs)."),
    ] = None,
    as_json: AsJson = False,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    output: OutputDirectory = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate what a study costs, and train nothing.")] = False,
    ray: Ray = None,
    gpus_per_run: GpusPerRun = None,
    cpus_per_run: CpusPerRun = None,
    runs_at_once: RunsAtOnce = None,
) -> None:
    """Compare finished runs question by question, or run a study (several recipes × seeds) and compare."""
    from heft.cli.show import ConsoleReporter, print_json

    on_ray = ray_options(ray, gpus_per_run, cpus_per_run, runs_at_once)
    if any(_is_study_file(name) for name in runs):
        if len(runs) > 1:
            raise HeftError("give one study file, or run directories; got both or several")
        if reference is not None or as_json:
            raise HeftError(f"{runs[0]} names its own reference and writes comparison.json; give it alone")
        from heft.cli.study import run_study

        reporter = ConsoleReporter()
        result = run_study(Path(runs[0]), reporter, override, output, dry_run, on_ray)
        if result is not None:
            _show(result.comparison, reporter, result.notes)
            reporter.note(f"study: {result.directory}   table: {result.directory / 'comparison.md'}")
        return
    if override or output is not None or dry_run or on_ray is not None:
        raise HeftError("--set, --output, --dry-run and --ray are for a study file; runs are compared as they are")
    from heft.compare.comparison import compare as compare_arms
    from heft.compare.inputs import read_inputs

    inputs = read_inputs(runs)
    if reference is None:
        comparison = compare_arms(inputs.arms, inputs.reference, inputs.pairs)
    else:
        comparison = compare_arms(inputs.arms, reference)
    if as_json:
        print_json(comparison.to_dict())
    else:
        _show(comparison, ConsoleReporter(), inputs.notes)


def _is_study_file(given: str) -> bool:
    """Whether this is a YAML file, or the name of a ready one where no folder has that name."""
    if given.endswith((".yaml", ".yml")):
        return True
    from heft.recipe.ready import located
    from heft.storage.reading import is_dir

    return not is_dir(Path(given)) and located(given) != Path(given)


def _show(comparison: "Comparison", reporter: "ConsoleReporter", notes: Sequence[str] = ()) -> None:
    """Print the verdicts, what else there is to know, and the tables."""
    for pair in comparison.pairs:
        reporter.note(pair.words)
    if not comparison.pairs:
        reporter.note("one arm alone: nothing to compare it with")
    for note in notes:
        reporter.note(note)
    from heft.cli.show import table
    from heft.compare.table import tables

    for found in tables(comparison):
        headings = found.headings[: found.texts], found.headings[found.texts :]
        reporter.console.print(table(found.title, *headings, found.rows))
