"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, a YAML file.")]
RunOrAdapter = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run, such as runs/quickstart, or its adapter directory.")
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as stages.fine.rank=4; repeatable."),
]
OutputDirectory = Annotated[Path | None, typer.Option(metavar="DIR", help="Directory to write; default: runs/<name>.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run code that comes with the base model; only for sources you trust."),
]
Base = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Folder or Hub id of the base model, if it has moved since training."),
]
