"""Questions with options: listed under letters, or each option read as the continuation (cloze)."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal

from heft.errors import HeftError
from heft.settings.words import show
from heft.tasks.base import SplitSettings, quotes_hint
from heft.tasks.example import Example, choice_example

ChoiceFormat = Literal["letters", "cloze"]


class ChoiceSettings(SplitSettings):
    """A published data set of questions with options."""

    format: ChoiceFormat = "letters"
    """letters: options are listed and a letter is the answer; cloze: the text of a hidden option is the answer."""


def question_cloze(question: str) -> str:
    """The prompt of a question whose options are not shown."""
    return f"Question: {question}\nAnswer:"


def options_example(
    task_name: str,
    choice_format: ChoiceFormat,
    head: str,
    cloze_prompt: str,
    options: Sequence[str],
    gold: int | None,
    group: str | None = None,
) -> Example:
    """An example in either format: `head` stands above the lettered options, `cloze_prompt` is all of a cloze prompt;
    `gold` is None where the right option is not known.

    A HeftError says that there are more options than letters.
    """
    if choice_format == "cloze":
        return choice_example(task_name, cloze_prompt, options, gold, group)
    if len(options) > len(ascii_uppercase):
        raise HeftError(f"{len(options)} options; letters reach to {len(ascii_uppercase)}, so set task.format: cloze")
    letters = ascii_uppercase[: len(options)]
    listed = "\n".join(f"{letter}. {option.strip()}" for letter, option in zip(letters, options, strict=True))
    prompt = f"{head}\n{listed}\nAnswer:"
    return choice_example(task_name, prompt, letters, gold, group, question=head, named=options)


def check_options(options: Sequence[object], name: str, least: int, most: int | None = None) -> None:
    """Raise a HeftError where options are not texts, are empty, or are not as many as the task has."""
    if len(options) < least or (most is not None and len(options) > most):
        count = f"{least}" if least == most else f"{least} to {most}" if most else f"at least {least}"
        raise HeftError(f"{name} must have {count} options; got {len(options)}")
    for option in options:
        if not isinstance(option, str) or not option.strip():
            raise HeftError(f"{name} must be texts that are not empty; got {show(option)}{quotes_hint(option)}")
