"""`heft train`: a recipe's stages, one after the other."""

import sys
from typing import Annotated

import typer

from heft.cli.options import AsJson, OutputDirectory, Overrides, Overwrite, Quiet, RecipeFile
from heft.errors import HeftError


def train(
    recipe: RecipeFile,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    output: OutputDirectory = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Resume from the last checkpoint in the run directory, or start if there is none."
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a recipe's stages and report the accuracy after each."""
    from heft.cli.documents import TrainDocument
    from heft.cli.output import Output
    from heft.cli.show import explain_interrupts, results_line, results_table, resuming
    from heft.compare.hints import hints_of_run
    from heft.compare.runs import read_run
    from heft.recipe.files import load_recipe
    from heft.recipe.grid import refuse_sweep
    from heft.run.begun import is_begun, require_same
    from heft.run.replace import require_output
    from heft.runtime import distributed

    loaded = load_recipe(recipe, override, output)
    refuse_sweep(loaded)  # all again in the run; here they are reported before torch takes its seconds
    if resume and overwrite:
        raise HeftError("--resume continues a run and --overwrite removes it; give one of them")
    if not resume:
        require_output(loaded, overwrite)
    elif is_begun(loaded.output_dir):
        require_same(loaded)
    out = Output(quiet, as_json)
    out.note("importing torch and transformers")
    from heft.run.train import train as run_recipe

    with explain_interrupts(loaded.output_dir, out.reporter, resuming(sys.argv[1:]), overwrite):
        run = run_recipe(loaded, out.reporter, resume, overwrite=overwrite)
    hints = hints_of_run(read_run(run.directory)) if distributed.is_main() else ()
    out.show(results_table(run.stages))
    for hint in hints:
        out.note(f"hint: {hint}")
    if quiet:
        out.last(results_line(run.stages))
    out.last(f"run: {run.directory}   adapter: {run.directory / 'adapter'}")
    out.document(TrainDocument, run=str(run.directory), adapter=str(run.directory / "adapter"), stages=run.stages)
    distributed.shutdown()
