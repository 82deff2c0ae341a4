"""`heft push`: a run's adapters and their model card to the Hub."""

from typing import Annotated

import typer

from heft.cli.options import AsJson, PublicBase, Quiet, RunOrAdapter


def push(
    adapter: RunOrAdapter,
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Repository on the Hub: ORG/NAME.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str, typer.Option(metavar="BRANCH", help="Branch to commit to; made where there is none.")
    ] = "main",
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="License of the adapters, as the Hub names it, such as apache-2.0.")
    ] = None,
    message: Annotated[str | None, typer.Option(metavar="TEXT", help="Message of the commit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
    base: PublicBase = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Send a run's adapters with a model card to the Hub, in one commit. `heft card` shows the card."""
    from heft.cli.documents import PushDocument
    from heft.cli.output import Output
    from heft.sharing.push import push as run_push
    from heft.text.units import in_bytes

    output = Output(quiet, as_json)
    done = run_push(adapter, repository, private, revision, base, license, message, dry_run, output.reporter.warn)
    for name, size in done.files.items():
        output.note(f"{in_bytes(size):>10}  {name}")
    if dry_run:
        output.last(f"{repository}: nothing was sent (--dry-run)")
    else:
        output.last(f"{done.url}   load it with: heft.load({f'{repository}@{done.commit}'!r})")
    output.document(PushDocument, repository=repository, files=list(done.files), commit=done.commit, url=done.url)
