"""The commands. Each is one file, which imports what is slow to import only when it runs."""

from typing import Annotated

import typer

from heft.cli.card import card
from heft.cli.compare import compare
from heft.cli.doctor import doctor
from heft.cli.evaluate import evaluate
from heft.cli.export import export
from heft.cli.generate import generate
from heft.cli.import_adapter import import_adapter
from heft.cli.init import init
from heft.cli.plan import plan
from heft.cli.predict import predict
from heft.cli.push import push
from heft.cli.recipes import recipes
from heft.cli.report import report
from heft.cli.serve import serve
from heft.cli.sweep import sweep
from heft.cli.train import train
from heft.cli.tune import tune
from heft.cli.verify import verify

app = typer.Typer(
    name="heft",
    help="Adapt a language model to a reasoning task in stages: LoRA, then ReFT.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
NAMES = {evaluate: "eval", import_adapter: "import"}
"""Of commands that Python has another word for."""
for command in (
    *(init, train, sweep, tune, plan, compare, report, evaluate, predict, generate),
    *(serve, verify, export, import_adapter, card, push, recipes, doctor),
):
    app.command(NAMES.get(command, command.__name__))(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from heft import __version__

        typer.echo(f"heft {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
