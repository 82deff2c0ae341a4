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
    """What rows need, in tokens: of the longest row, of the longest prompt before an answer that is generated, and of
    the longest such answer (0: none is)."""

    row: int
    prompt: int
    generated: int


def lengths_of(recipe: Recipe) -> Lengths:
    """The lengths of a recipe's rows, none of them cut.

    Raises:
        HeftError: rows or the tokenizer cannot be read, or the chat template is at fault.
    """
    task = recipe.task.model_copy(update={"max_length": _UNLIMITED})
    encode = Encoder.of(load_tokenizer(recipe.model), task)
    rows = [row for split in ("train", "eval") for row in encode(load_examples(task, split))]
    generated = [(len(row.prompt), len(row.answer)) for row in rows if not row.choices]
    prompt, answer = (max(sizes) for sizes in zip(*generated, strict=True)) if generated else (0, 0)
    return Lengths(max(map(_whole, rows)), prompt, answer)


def fitting_settings(recipe: Recipe) -> dict[str, int]:
    """`max_length` and `max_new_tokens` where the defaults do not fit a recipe's rows, or its model.

    Rows longer than the model has positions, with what may be generated behind them, are left to be cut.
    """
    lengths, settings = lengths_of(recipe), {}
    positions, new = base_limits(recipe.model).positions or _UNLIMITED, 0
    if lengths.generated:
        new = recipe.task.max_new_tokens
        if lengths.generated > new:
            settings["max_new_tokens"] = new = _rounded(lengths.generated)
    if max(lengths.row, lengths.prompt + new) > positions:
        settings["max_length"] = max(positions - new, positions // 2)  # what is generated leaves half to the prompt
    elif lengths.row > recipe.task.max_length:
        settings["max_length"] = min(_rounded(lengths.row), positions)
    return settings


def _whole(row: EncodedExample) -> int:
    return len(row.prompt) + max(map(len, (row.answer, *row.choices)))


def _rounded(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP
