"""`heft import`: an adapter of PEFT's or pyreft's as an adapter directory."""

from pathlib import Path
from typing import Annotated

import typer

from heft.cli.complete import complete_tasks
from heft.cli.options import Overrides, Quiet


def import_adapter(
    adapter: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder that pyreft or PEFT saved, or the Hub id of a LoRA.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Adapter directory to write; it may not be there yet.")],
    base: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Base model, as in model.name (default: the one that PEFT's files name)."),
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Which tokens pyreft's interventions edit, such as f7+l7: no file says so."),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(metavar="NAME", help="Activation (act_fn) of pyreft's interventions, if they had one.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the adapter (default: coarse for LoRA, fine for ReFT).")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Task that it was trained on (default: none, prompts as they are).", autocompletion=complete_tasks
        ),
    ] = None,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    quiet: Quiet = False,
) -> None:
    """Make an adapter directory, which every command takes, of what pyreft or PEFT saved.

    --set takes task.KEY, evaluation.KEY and model.KEY.
    """
    from heft.cli.output import Output
    from heft.exchange.importing import import_adapter as run_import

    output = Output(quiet)
    found = run_import(adapter, out, base, stage, positions, activation, override, task, output.reporter.warn)
    output.note(found)
    output.last(f"adapter: {out}")
