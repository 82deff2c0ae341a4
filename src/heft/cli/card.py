"""`heft card`: the model card that `heft push` sends."""

from typing import Annotated

import typer

from heft.cli.options import PublicBase, RunOrAdapter


def card(
    adapter: RunOrAdapter,
    repository: Annotated[
        str, typer.Option("--repo", metavar="REPO", help="Repository that it is for, ORG/NAME.")
    ] = "ORG/NAME",
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="License of the adapters, as the Hub names it, such as apache-2.0.")
    ] = None,
    base: PublicBase = None,
) -> None:
    """Print the model card of a run: base, data, recipe, results with intervals, limits, how to load it."""
    from heft.sharing.card import card as text_of
    from heft.sharing.facts import facts_of
    from heft.text.escape import escape_controls

    typer.echo(escape_controls(text_of(facts_of(adapter, base, license), repository)), nl=False)
