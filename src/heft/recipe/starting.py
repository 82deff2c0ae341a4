"""The recipe that `heft init` writes: settings that follow from the rows, in YAML with comments."""

import re
from copy import deepcopy
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from heft.recipe.recipe import Recipe
from heft.settings.files import Document, Place, to_yaml, validate
from heft.tasks.guess import Guess
from heft.text.escape import escape_controls

_NO_CHARACTER = re.compile("[\ufffe\uffff]")


@dataclass(frozen=True)
class Choices:
    """What depends on the number and kind of rows.

    Attributes:
        task: settings of the task, such as its format.
        stages: the stages, in order.
        evaluation: how the model is evaluated.
    """

    task: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    evaluation: dict[str, Any]


def settings_for(kind: str) -> Choices:
    """Format, positions and scores for a kind of task (labels, choices, completion or chat).

    Learning rates and lengths are `auto`: heft.recipe.defaults.
    """
    task = {"format": "cloze"} if kind in ("labels", "choices") else {}
    evaluation = {"normalize": "bytes"} if kind == "choices" else {}  # a row's own choices are of unlike lengths
    return Choices(task, {"coarse": {"method": "lora"}, "fine": {"method": "reft", "positions": "l4"}}, evaluation)


def starting_recipe(
    name: str, model: str | None, train: str, more: dict[str, Any], guess: Guess, choices: Choices
) -> dict[str, Any]:
    """The recipe's values, without those that are the defaults.

    `more` are settings of the task that the person gave, such as `eval`.
    """
    task = {"name": "rows", "train": train, **guess.settings, **choices.task, **more}
    return {
        "name": name,
        **({"model": {"name": model}} if model else {}),
        "task": task,
        "stages": choices.stages,
        **({"evaluation": choices.evaluation} if choices.evaluation else {}),
    }


def starting_yaml(recipe: dict[str, Any], guess: Guess) -> str:
    """The recipe as YAML, with a comment for what a person may want to change."""
    comments = {
        "train": "the rows",
        "eval": "rows to evaluate on, never trained on",
        "eval_share": "share of the rows that is set aside to evaluate on",
        "prompt": "what the model reads; columns in braces",
        "answer": "the column that holds the answer",
        "choices": "labels: those in the training rows; or a list of labels, or the columns that hold choices",
        "format": "cloze: the label's text is the answer; letters: labels are listed as A, B, …",
        "chat_template": "prompts are written as the model's chat template says",
        "coarse": "first a low-rank update of the weights",
        "fine": "then, with that frozen, edits of hidden states",
    }
    lines = [f"# {sentence}" for sentence in _wrapped(guess.why)]
    lines += ["# `heft train` trains it, `heft plan --show 2` shows rows as tokens; docs/recipes.md has every setting."]
    for line in to_yaml(recipe).splitlines():
        key = line.strip().partition(":")[0]
        indent = len(line) - len(line.lstrip())
        comment = comments.get(key) if indent == 2 else None
        lines.append(f"{line}  # {comment}" if comment else line)
    return "\n".join(lines) + "\n"


def checked_recipe(recipe: dict[str, Any]) -> Recipe:
    """The recipe as a run would read it.

    Raises:
        HeftError: something that a person gave is wrong; a line for each fault.
    """
    return validate(Document(deepcopy(recipe), {(): Place(0, 0, "heft init")}), Recipe)


def _wrapped(text: str) -> list[str]:
    """Lines of a comment, which in YAML can hold no control character, no line end of Unicode's and no U+FFFE."""
    return wrap(_NO_CHARACTER.sub("\ufffd", escape_controls(text)), 116)
