"""`heft init`: a recipe for a person's own rows."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heft.cli.options import Encoding
from heft.errors import HeftError
from heft.text.command import command
from heft.text.escape import escape_controls

if TYPE_CHECKING:
    from heft.recipe.recipe import Recipe
    from heft.tasks.guess import Guess
    from heft.tasks.table import Row

_MOST_ROWS = 20_000
"""Rows that are looked at to decide what they are for."""


def init(
    source: Annotated[
        str, typer.Argument(metavar="FILE_OR_HUB_ID", help="Rows: JSON Lines, JSON, CSV, TSV, Parquet, or owner/name.")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="The recipe to write.")] = Path("recipe.yaml"),
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help='Prompt with columns in braces, "Ticket: {text}\\nCategory:".'),
    ] = None,
    answer: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column that holds the answer.")] = None,
    choices: Annotated[
        str | None,
        typer.Option(help="labels, none, a column with lists, or labels or columns between commas."),
    ] = None,
    eval: Annotated[str | None, typer.Option(metavar="FILE_OR_HUB_ID", help="Rows to evaluate on.")] = None,
    encoding: Encoding = None,
    eval_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the rows to evaluate on (default: 0.2).")
    ] = None,
    format: Annotated[str | None, typer.Option(help="letters or cloze, for rows with choices.")] = None,
    chat_template: Annotated[bool | None, typer.Option(help="Write prompts as the chat template says.")] = None,
    model: Annotated[str | None, typer.Option(help="Base model, as in a recipe's model.name.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run (default: the file's).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over a recipe that is there.")] = False,
) -> None:
    """Look at your rows, say what they are taken for, and write a recipe that trains on them."""
    from heft.recipe.starting import checked_recipe, settings_for, starting_recipe, starting_yaml
    from heft.storage.atomic import write_text
    from heft.storage.targets import make_folder_of
    from heft.tasks.table import read_table

    _require_free(output, overwrite, [source, eval])
    rows = read_table(source, encoding=encoding)
    guess = _guess(rows[:_MOST_ROWS], prompt, answer, choices)
    typer.echo(escape_controls(f"{len(rows):,} rows; taken for: {guess.kind}. {guess.why}"))
    given = {"eval": eval, "eval_share": eval_share, "encoding": encoding}
    given |= {"format": format, "chat_template": chat_template}
    more = {key: value for key, value in given.items() if value is not None} | _splits(source, eval, eval_share)
    recipe = starting_recipe(name or _run_name(source), model, source, more, guess, settings_for(guess.kind))
    checked_recipe(recipe)
    typer.echo("importing torch and transformers")
    from heft.cli.plan_examples import drawn
    from heft.cli.show import ConsoleReporter
    from heft.data.fitting import fitting_settings
    from heft.data.inspect import show_examples
    from heft.models.load import quiet

    quiet()
    if chat_template is None and guess.kind == "completion":
        _without_a_template_that_is_not_there(recipe["task"], checked_recipe(recipe))
    recipe["task"] |= fitting_settings(checked_recipe(recipe))
    console = ConsoleReporter().console
    console.print(drawn(show_examples(checked_recipe(recipe), 2)))
    for key in ("train", "eval"):
        if key in recipe["task"]:
            recipe["task"][key] = _from_folder(recipe["task"][key], output.parent)
    make_folder_of(output)
    write_text(output, starting_yaml(recipe, guess))
    console.print(f"\nwritten: {output}   next: {command('train', output)}")


def _require_free(output: Path, overwrite: bool, sources: Sequence[str | None]) -> None:
    from heft.storage.reading import is_file
    from heft.storage.targets import require_new_file
    from heft.tasks.table import is_file_of

    require_new_file(output, "the recipe")
    if is_file(output) and not overwrite:
        raise HeftError(f"{output} is there already; give another with --output FILE, or write over it: --overwrite")
    if any(is_file_of(source, output) for source in filter(None, sources)):
        raise HeftError(f"--output {output} is the file that the rows are in; give another for the recipe")


def _without_a_template_that_is_not_there(task: dict[str, Any], recipe: "Recipe") -> None:
    """Take `chat_template: true` from a guessed task whose model has no template."""
    from heft.models.chat import ChatTemplate
    from heft.models.load import load_tokenizer

    if recipe.task.chat_template and not ChatTemplate(load_tokenizer(recipe.model)).is_there:
        typer.echo("the model has no chat template, so prompts are read as they are")
        del task["chat_template"]


def _guess(rows: "list[Row]", prompt: str | None, answer: str | None, choices: str | None) -> "Guess":
    """What the rows are for, by the flags and the columns; where these do not say it, a person at a terminal does."""
    from heft.tasks.guess import guess_task

    if prompt is not None:
        prompt = prompt.replace("\\n", "\n")  # what a shell hands over for a line end between quotes
    try:
        guess = guess_task(rows, prompt, answer)
    except HeftError as error:
        if not (sys.stdin.isatty() and sys.stdout.isatty()) or answer is not None:
            raise
        guess = guess_task(rows, prompt, _asked_answer(error))
    return guess if choices is None else _with_choices(guess, choices, rows)


def _asked_answer(error: HeftError) -> str:
    """The column of the answer, as a person at a terminal says it; Ctrl-C ends the command as anywhere else.

    Raises:
        HeftError: as given, where the input ends.
    """
    typer.echo(escape_controls(str(error)))
    while True:
        typer.echo("column of the answer: ", nl=False)
        try:
            answer = input().strip()
        except EOFError:
            typer.echo()
            raise error from None
        if answer:
            return answer


def _with_choices(guess: "Guess", choices: str, rows: "list[Row]") -> "Guess":
    """The guess with the choices that the person gave."""
    from dataclasses import replace

    from heft.tasks.rows.cells import has_cell

    settings = {key: value for key, value in guess.settings.items() if key not in ("choices", "label_names")}
    if choices == "none":
        return replace(
            guess, kind="completion", settings=settings, labels={}, why="The answer is generated (--choices)."
        )
    value: Any = [part.strip() for part in choices.split(",")] if "," in choices else choices
    named = [value] if isinstance(value, str) else value
    are_columns = all(any(has_cell(row, name) for _, row in rows) for name in named)
    kind = "choices" if are_columns and value != "labels" else "labels"
    return replace(guess, kind=kind, settings={**settings, "choices": value}, why="The choices are those of --choices.")


def _splits(source: str, eval: str | None, eval_share: float | None) -> dict[str, Any]:
    """The split to evaluate on, where a data set on the Hub has one."""
    from heft.tasks.table import splits_of

    names = [] if eval is not None or eval_share is not None else splits_of(source)
    found = next((name for name in ("validation", "valid", "dev", "test") if name in names), None)
    return {} if found is None else {"eval_split": found}


def _run_name(source: str) -> str:
    import re

    stem = Path(source.partition(":")[0]).name.removesuffix(".gz")
    stem = stem.rpartition(".")[0] or stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_") or "rows"


def _from_folder(source: str, folder: Path) -> str:
    """A path as it is seen from the recipe's folder; an id on the Hub as it is."""
    from heft.storage.reading import absolute_path
    from heft.tasks.table import locate

    path = locate(source)
    if path is None or path.is_absolute():
        return source
    return Path(os.path.relpath(absolute_path(path), folder.resolve())).as_posix()
