"""A run's rows: read, encoded, checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from heft.adapters.methods import edited_positions
from heft.data.checks import checked_rows
from heft.data.encode import EncodedExample, Encoder
from heft.edits.positions import Positions
from heft.errors import HeftError
from heft.models.chat import today
from heft.models.load import load_tokenizer
from heft.recipe.files import with_date
from heft.recipe.recipe import Recipe
from heft.recipe.training import require_trained_rows
from heft.runtime.reporter import Reporter
from heft.tasks import load_examples


@dataclass(frozen=True)
class Data:
    """A task's rows in token ids."""

    train: list[EncodedExample]
    eval: list[EncodedExample]


def dated(recipe: Recipe, reporter: Reporter) -> Recipe:
    """The recipe with today's date, where its chat template writes it and the recipe leaves it open; said to a person.

    Raises:
        HeftError: the tokenizer cannot be loaded, its chat template is missing or at fault, or the recipe has a date
            that the template does not ask for.
    """
    task = recipe.task
    if not task.chat_template:
        return recipe
    if not Encoder.of(load_tokenizer(recipe.model), task).chat.uses_date:
        if task.template_date is not None:
            raise HeftError(
                f"task.template_date {task.template_date} has no effect: the chat template of {recipe.model.name}"
                " writes no date; remove it"
            )
        return recipe
    day = task.template_date or today()
    reporter.note(
        f"the chat template writes the day's date into prompts: they have {day} now, when the run is resumed and when"
        " its adapter is used (task.template_date)"
    )
    return with_date(recipe, day)


def read_data(recipe: Recipe, reporter: Reporter, positions: Sequence[Positions] | None = None) -> Data:
    """Read and encode a recipe's rows; `positions` are what adapters edit, None for those of the recipe's stages.

    Raises:
        HeftError: rows cannot be read, do not fit, or leave nothing to train on.
    """
    task = recipe.task
    examples = {split: load_examples(task, split) for split in ("train", "eval")}
    positions = edited_positions(recipe) if positions is None else positions
    tokenizer = load_tokenizer(recipe.model)
    encode = Encoder.of(tokenizer, task, positions)
    data = Data(encode(examples["train"]), encode(examples["eval"]))
    for what, rows in (("train", data.train), ("evaluation", data.eval)):
        cut = sum(row.cut > 0 for row in rows)
        tokens = sum(row.cut for row in rows)
        suffix = f"; {cut:,} prompts cut to {task.max_length} tokens ({tokens:,} tokens dropped)" if cut else ""
        reporter.note(f"{len(rows):,} {what} rows of {task.name}{suffix}")
    data = Data(checked_rows(recipe, data.train, data.eval, tokenizer, reporter), data.eval)
    for name, stage in recipe.stages.items():
        require_trained_rows(f"stages.{name}.holdout", stage.holdout, len(data.train))
    return data
