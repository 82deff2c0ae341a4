"""Lengths that rows need: how many tokens to read, and how many to generate."""

from dataclasses import dataclass

from heft.data.encode import EncodedExample, Encoder
from heft.models.limits import base_limits
from heft.models.load import load_tokenizer
from heft.recipe.recipe import Recipe
from heft.tasks import load_examples

_STEP = 64
_UNLIMITED = 2**24


@dataclass(frozen=True)
class Lengths:
    """What rows need, in tokens: of the longest row, and of the longest answer that is generated (0: none is)."""

    row: int
    generated: int


def lengths_of(recipe: Recipe) -> Lengths:
    """The lengths of a recipe's rows, none of them cut.

    Raises:
        HeftError: rows or the tokenizer cannot be read, or the chat template is at fault.
    """
    task = recipe.task.model_copy(update={"max_length": _UNLIMITED})
    encode = Encoder.of(load_tokenizer(recipe.model), task)
    rows = [row for split in ("train", "eval") for row in encode(load_examples(task, split))]
    return Lengths(max(map(_whole, rows)), max(len(row.answer) if not row.choices else 0 for row in rows))


def fitting_settings(recipe: Recipe) -> dict[str, int]:
    """`max_length` and `max_new_tokens` where the defaults are too small for a recipe's rows.

    Rows longer than the model has positions are left to be cut.
    """
    lengths, settings = lengths_of(recipe), {}
    positions = base_limits(recipe.model).positions or _UNLIMITED
    if lengths.row > recipe.task.max_length:
        settings["max_length"] = min(_rounded(lengths.row), positions)
    if lengths.generated > recipe.task.max_new_tokens:
        settings["max_new_tokens"] = _rounded(lengths.generated)
    return settings


def _whole(row: EncodedExample) -> int:
    return len(row.prompt) + max(map(len, (row.answer, *row.choices)))


def _rounded(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP
