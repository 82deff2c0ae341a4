"""`heft verify`: the checks of an adapter as they come, or as JSON."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from heft.cli.options import AsJson, Base, Device, RunOrAdapter, ServedName, TrustRemoteCode, Url
from heft.errors import HeftError
from heft.text.escape import escape_controls

if TYPE_CHECKING:
    from heft.verify.finding import Finding


def verify(
    adapter: RunOrAdapter,
    rows: Annotated[int, typer.Option(help="Rows of the adapter's task to compare on, at least 2.")] = 4,
    device: Device = None,
    as_json: AsJson = False,
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
    url: Url = None,
    served_model_name: ServedName = None,
) -> None:
    """Check that a saved adapter gives the same outputs however it is loaded and run (save/load, KV cache, batching,
    padding, merging). Exit status 1: a check failed.

    With --url a server that `heft serve` runs is compared with the run: greedy tokens and log-likelihoods of the base
    and of every stage, alone and mixed.
    """
    from heft.cli.remote import require_url

    require_url(url, served_model_name)
    if rows < 2:
        raise HeftError(f"--rows is {rows}; comparing a batch with single rows needs at least 2")
    if not as_json:
        typer.echo("importing torch and transformers")
    from heft.cli.show import print_json
    from heft.models.load import quiet
    from heft.verify.subject import open_subject
    from heft.verify.verifier import findings_of, heading
    from heft.verify.verifier import verify as run_checks

    quiet()
    if url is not None:
        _verify_server(url, adapter, rows, served_model_name, device, trust_remote_code, base, as_json)
    if as_json:
        report = run_checks(adapter, rows, device, trust_remote_code, base)
        print_json(report.to_dict())
        raise typer.Exit(0 if report.ok else 1)
    subject = open_subject(adapter, rows, device, trust_remote_code, base)
    for line in heading(subject):
        typer.echo(escape_controls(line))
    _tell(findings_of(subject))


def _tell(findings: Iterable["Finding"]) -> NoReturn:
    """Print findings as they come, and leave with their status."""
    from heft.verify.finding import DOES_NOT_APPLY, FAILED, OK

    counts = Counter()
    for finding in findings:
        counts[finding.state] += 1
        typer.echo(escape_controls("\n".join(("", *finding.lines()))))
    typer.echo("\n" + ", ".join(f"{counts[state]} {state}" for state in (OK, FAILED, DOES_NOT_APPLY) if counts[state]))
    raise typer.Exit(1 if counts[FAILED] else 0)


def _verify_server(
    url: str,
    adapter: Path,
    rows: int,
    name: str | None,
    device: str | None,
    trust_remote_code: bool,
    base: str | None,
    as_json: bool,
) -> NoReturn:
    from heft.cli.show import print_json
    from heft.serving.sameness import open_compared, served_findings
    from heft.verify.finding import FAILED

    compared = open_compared(url, adapter, rows, name, device, trust_remote_code, base)
    if not as_json:
        for line in compared.heading():
            typer.echo(escape_controls(line))
        _tell(served_findings(compared))
    findings = list(served_findings(compared))
    ok = not any(finding.state == FAILED for finding in findings)
    print_json({"url": url, "adapter": str(compared.directory), "ok": ok, "findings": [f.to_dict() for f in findings]})
    raise typer.Exit(0 if ok else 1)
