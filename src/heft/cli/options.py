"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from heft.cli.complete import complete_recipes, complete_settings, complete_tasks
from heft.errors import HeftError

_DEVICES = ("cpu", "cuda", "mps")


def _known_device(value: str | None) -> str | None:
    if value is not None and value not in _DEVICES:
        raise HeftError(f"--device is {value!r}; expected one of {', '.join(_DEVICES)}")
    return value


RecipeFile = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe: a YAML file, or the name of one that comes with heft, such as quickstart (`heft recipes`).",
        autocompletion=complete_recipes,
    ),
]
RunOrAdapter = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run, such as runs/quickstart, its adapter directory, or ORG/NAME@REVISION on the Hub."
    ),
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting, such as stages.fine.rank=4; repeatable.",
        autocompletion=complete_settings,
    ),
]
OutputDirectory = Annotated[Path | None, typer.Option(metavar="DIR", help="Directory to write; default: runs/<name>.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output, also for an error (docs/json.md).")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and the last lines.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Remove the run that is in the directory, once the new one is checked.")
]
Task = Annotated[
    str | None,
    typer.Option(help="Task to evaluate on (default: the adapter's own).", autocompletion=complete_tasks),
]
Encoding = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Encoding of a text file that is not in Unicode, such as cp1252."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run code that comes with the base model; only for sources you trust."),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Do runs, or trials, at once on Ray: local (this machine alone), auto or HOST:PORT (docs/cluster.md).",
    ),
]
GpusPerRun = Annotated[
    float | None, typer.Option(help="With --ray: GPUs of one run or trial, 0 to 1 (default: 1 where there are GPUs).")
]
CpusPerRun = Annotated[
    int | None, typer.Option(help="With --ray: CPU cores of one run or trial, and its threads (default: 1).")
]
RunsAtOnce = Annotated[int | None, typer.Option(help="With --ray: how many runs or trials at once at most.")]
Base = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Folder or Hub id of the base model, if it has moved since training."),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu, cuda or mps (default: as in the recipe).", callback=_known_device),
]
Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Let a server compute that `heft serve` runs (key: HEFT_API_KEY)."),
]
ServedName = Annotated[
    str | None,
    typer.Option("--served-model-name", metavar="NAME", help="With --url: the model's name there; default: the run's."),
]
PublicBase = Annotated[
    str | None,
    typer.Option("--base", metavar="NAME", help="The base model's name on the Hub, where it is a folder here."),
]
