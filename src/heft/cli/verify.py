"""`heft verify`: the checks of an adapter as they come, or as JSON."""

from collections import Counter
from typing import Annotated

import typer

from heft.cli.options import AsJson, Base, RunOrAdapter, TrustRemoteCode
from heft.errors import HeftError
from heft.text.escape import escape_controls

DEVICES = ("cpu", "cuda", "mps")


def verify(
    adapter: RunOrAdapter,
    rows: Annotated[int, typer.Option(help="Rows of the adapter's task to compare on, at least 2.")] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps (default: as in the recipe).")] = None,
    as_json: AsJson = False,
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
) -> None:
    """Check that a saved adapter gives the same outputs however it is loaded and run (save/load, KV cache, batching,
    padding, merging). Exit status 1: a check failed."""
    if device is not None and device not in DEVICES:
        raise HeftError(f"--device is {device!r}; expected one of {', '.join(DEVICES)}")
    if rows < 2:
        raise HeftError(f"--rows is {rows}; comparing a batch with single rows needs at least 2")
    if not as_json:
        typer.echo("importing torch and transformers")
    from heft.cli.show import print_json
    from heft.models.load import quiet
    from heft.verify.finding import DOES_NOT_APPLY, FAILED, OK
    from heft.verify.subject import open_subject
    from heft.verify.verifier import findings_of, heading
    from heft.verify.verifier import verify as run_checks

    quiet()
    if as_json:
        report = run_checks(adapter, rows, device, trust_remote_code, base)
        print_json(report.to_dict())
        raise typer.Exit(0 if report.ok else 1)
    subject = open_subject(adapter, rows, device, trust_remote_code, base)
    for line in heading(subject):
        typer.echo(escape_controls(line))
    counts = Counter()
    for finding in findings_of(subject):
        counts[finding.state] += 1
        typer.echo(escape_controls("\n".join(("", *finding.lines()))))
    typer.echo("\n" + ", ".join(f"{counts[state]} {state}" for state in (OK, FAILED, DOES_NOT_APPLY) if counts[state]))
    raise typer.Exit(1 if counts[FAILED] else 0)
