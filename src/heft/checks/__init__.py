"""Checks before training: what is wrong with a recipe's rows as the model will see them, all of it at once.

Each check is an error unless the recipe's `allow` names it; docs/checks.md says what each finds and why it matters.
`labels` looks at what is trained on, `begin` at begin tokens, `sets` at rows beside each other.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heft.checks.begin import double_bos
from heft.checks.labels import has_label, label_faults
from heft.checks.sets import answers_cut, labels_alike, repeats, train_in_eval
from heft.data import EncodedExample
from heft.errors import HeftError
from heft.recipe import Recipe
from heft.reporter import Reporter
from heft.tasks import task_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def checked_rows(
    recipe: Recipe,
    train: Sequence[EncodedExample],
    evaluation: Sequence[EncodedExample],
    tokenizer: "PreTrainedTokenizerBase",
    reporter: Reporter,
) -> list[EncodedExample]:
    """Check a recipe's rows, and count those that repeat others.

    Args:
        recipe: whose rows they are; its `allow` turns checks off.
        train, evaluation: all rows of the two splits, encoded.
        tokenizer: that encoded them; pads and ends answers.
        reporter: is told of repeated rows, and of what a check finds that is allowed.

    Returns:
        The rows to train on: all, but for those without a label where these are allowed.

    Raises:
        HeftError: something was found that is not allowed; the message has all of it.
    """
    task = task_for(recipe.task)
    faults = label_faults(train, tokenizer)
    faults += double_bos(train, evaluation, tokenizer)
    faults += answers_cut(train, evaluation, task, tokenizer)
    faults += train_in_eval(train, evaluation)
    faults += labels_alike(train, evaluation)
    refused = [fault for fault in faults if fault.check not in recipe.allow]
    messages = [fault.message(recipe.allow) for fault in refused] + _never_allowed(train, evaluation)
    if messages:
        heading = f"{len(messages)} checks before training failed:\n  " if len(messages) > 1 else ""
        raise HeftError(heading + "\n  ".join(messages))
    for fault in faults:
        reporter.note(f"allowed ({fault.check}): {fault.found}")
    for split, rows in (("train", train), ("eval", evaluation)):
        if note := repeats(split, rows):
            reporter.note(note)
    return [row for row in train if has_label(row)]


def _never_allowed(train: Sequence[EncodedExample], evaluation: Sequence[EncodedExample]) -> list[str]:
    """What leaves nothing to train on, or no way to score."""
    messages = []
    if not any(has_label(row) for row in train):
        messages.append("no train row has a label, so there is nothing to train on; look at the answers of the source")
    silent = [row for row in evaluation if not all(row.choices)]
    if silent:
        messages.append(
            f"{len(silent):,} of {len(evaluation):,} eval rows have a choice without tokens, which no likelihood can"
            f" score, such as {silent[0].example.choices}; change or remove them"
        )
    return messages
