"""`heft doctor`: a line per finding, or JSON."""

from typing import Annotated

import typer

from heft.cli.options import AsJson


def doctor(
    online: Annotated[
        bool, typer.Option("--online", help="Ask the Hub whether it answers (else nothing is sent).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Diagnose the environment and suggest fixes. Exit status 1: a fault."""
    from heft import doctor as checks

    lines = checks.examine(online)
    typer.echo(checks.as_json(lines) if as_json else checks.as_text(lines))
    raise typer.Exit(1 if checks.has_fault(lines) else 0)
