"""`heft train`: a recipe's stages, one after the other."""

import shlex
import sys
from typing import Annotated

import typer

from heft.cli.options import OutputDirectory, Overrides, RecipeFile


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
) -> None:
    """Train a recipe's stages and report the accuracy after each."""
    from heft.cli.show import ConsoleReporter, explain_interrupts, results_table
    from heft.compare.hints import hints_of_run
    from heft.compare.runs import read_run
    from heft.recipe.files import load_recipe
    from heft.recipe.grid import refuse_sweep
    from heft.run.begun import is_begun, require_free, require_same
    from heft.runtime import distributed

    loaded = load_recipe(recipe, override, output)
    refuse_sweep(loaded)  # all again in the run; here they are reported before torch takes its seconds
    if not resume:
        require_free(loaded.output_dir)
    elif is_begun(loaded.output_dir):
        require_same(loaded)
    reporter = ConsoleReporter()
    reporter.note("importing torch and transformers")
    from heft.run.train import train as run_recipe

    typed = [word for word in sys.argv[1:] if word != "--resume"]
    with explain_interrupts(loaded.output_dir, reporter, resume=shlex.join(["heft", *typed, "--resume"])):
        run = run_recipe(loaded, reporter, resume)
    reporter.console.print(results_table(run.stages))
    for hint in hints_of_run(read_run(run.directory)) if distributed.is_main() else ():
        reporter.note(f"hint: {hint}")
    reporter.note(f"run: {run.directory}   adapter: {run.directory / 'adapter'}")
    distributed.shutdown()
