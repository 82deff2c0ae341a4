"""`heft doctor`: the lines, or JSON."""

import typer

from heft.doctor import examine
from heft.doctor.line import as_json, as_text, has_fault


def run_doctor(online: bool, machine_readable: bool) -> None:
    """Print what was seen; exit status 1 where something is at fault."""
    lines = examine(online)
    typer.echo(as_json(lines) if machine_readable else as_text(lines))
    raise typer.Exit(1 if has_fault(lines) else 0)
