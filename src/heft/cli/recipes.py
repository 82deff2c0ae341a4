"""`heft recipes`: the recipes and studies that come with heft, listed, printed or copied."""

import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heft.cli.complete import complete_names
from heft.cli.options import AsJson
from heft.errors import HeftError
from heft.text.command import command
from heft.text.escape import escape_controls

if TYPE_CHECKING:
    from heft.recipe.ready import Measured, ReadyRecipe


def recipes(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Print this one (default: list all).", autocompletion=complete_names),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Copy NAME to this file, to change it there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the recipes and studies that come with heft; print or copy one."""
    from heft.cli.show import print_json
    from heft.recipe.ready import measurements, ready_recipe, ready_recipes

    if name is None:
        if output is not None:
            raise HeftError(f"--output {output} needs the name of a recipe to copy; `heft recipes` lists them")
        found, measured = ready_recipes(), measurements()
        if as_json:
            print_json({"recipes": [_values(each, measured.get(each.name)) for each in found]})
        else:
            typer.echo("\n".join(_lines(found, measured)))
        return
    chosen = ready_recipe(name)
    if output is not None:
        _copy(chosen, output)
    if as_json:
        print_json({**_values(chosen, measurements().get(chosen.name)), "text": chosen.text})
    elif output is None:
        typer.echo(chosen.text, nl=False)
    else:
        typer.echo(escape_controls(f"copied to {output}; next: {command(chosen.command, output)}"))


def _copy(chosen: "ReadyRecipe", output: Path) -> None:
    from heft.storage.atomic import write_text
    from heft.storage.targets import make_folder_of, require_new_file

    require_new_file(output, "the recipe")
    if output.exists():
        raise HeftError(f"--output {output} exists; give another file, or remove it")
    if chosen.command == "compare":
        raise HeftError(
            f"{chosen.name} is a study, whose arms are files beside it; copy the folder {chosen.path.parent}"
        )
    make_folder_of(output)
    write_text(output, chosen.text)


def _values(each: "ReadyRecipe", measured: "Measured | None") -> dict:
    return {
        "name": each.name,
        "command": f"heft {each.command} {each.name}",
        "purpose": each.purpose,
        "measured": None if measured is None else measured.model_dump(),
        "path": str(each.path),
    }


def _lines(found: "list[ReadyRecipe]", measured: "dict[str, Measured]") -> list[str]:
    """For each its command and what was measured, then what it is for, as wide as the terminal."""
    lines = []
    for each in found:
        lines.append(f"heft {each.command} {each.name}   {_measured_words(measured.get(each.name))}")
        lines += textwrap.wrap(
            each.purpose, min(shutil.get_terminal_size().columns, 120), initial_indent="    ", subsequent_indent="    "
        )
    return lines


def _measured_words(had: "Measured | None") -> str:
    if had is None:
        return "[time and score: unmeasured]"
    minutes = "time: unmeasured" if had.minutes is None else f"{had.minutes:g} min"
    return f"[{minutes}, {had.score or 'score: unmeasured'}; {had.where}]"
