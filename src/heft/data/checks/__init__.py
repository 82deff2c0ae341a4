"""Checks before training: what is wrong with a recipe's rows as the model will see them, all of it at once.

Each check is an error unless the recipe's `allow` names it; docs/checks.md says what each finds and why it matters.
`labels` looks at what is trained on and at BOS tokens, `sets` at rows beside each other, `choices` at those that cannot
win, `base` at what the model can take.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from heft.data.checks.base import open_thinking, silent_choices, too_long_rows, unknown_ids
from heft.data.checks.choices import also_never_chosen, never_chosen
from heft.data.checks.fault import Fault
from heft.data.checks.labels import double_bos, has_label, label_faults
from heft.data.checks.sets import answers_cut, labels_alike, repeats, rewritten, tokens_in_text, train_in_eval
from heft.data.checks.unused import unused_settings
from heft.data.encode import EncodedExample, Encoder
from heft.errors import HeftError
from heft.models.endings import end_tokens
from heft.models.limits import BaseLimits, base_limits
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Reporter
from heft.tasks import Task, task_for


def checked_rows(
    recipe: Recipe,
    train: Sequence[EncodedExample],
    evaluation: Sequence[EncodedExample],
    tokenizer: PreTrainedTokenizerBase,
    reporter: Reporter,
) -> list[EncodedExample]:
    """Check a recipe's rows, and note what is odd but no fault.

    Args:
        recipe: whose rows they are; its `allow` turns checks off.
        train, evaluation: all rows of the two splits, encoded.
        tokenizer: that encoded them; pads and ends answers.
        reporter: hears of repeated rows and the like, and of what a check finds that is allowed.

    Returns:
        The rows to train on: all, but for those without a label where these are allowed.

    Raises:
        HeftError: something was found that is not allowed; the message has all of it.
    """
    found = _Checked(recipe, train, evaluation, tokenizer, base_limits(recipe.model))
    faults, messages = found.faults(), found.never_allowed()
    messages = [fault.message(recipe.allow) for fault in faults if fault.check not in recipe.allow] + messages
    if messages:
        heading = f"{len(messages)} checks before training failed:\n  " if len(messages) > 1 else ""
        raise HeftError(heading + "\n  ".join(messages))
    for fault in faults:
        reporter.warn(f"allowed ({fault.check}): {fault.found}")
    for note in found.notes():
        reporter.warn(note)
    return [row for row in train if has_label(row)]


@dataclass(frozen=True)
class _Checked:
    """A recipe's rows and what they are held against."""

    recipe: Recipe
    train: Sequence[EncodedExample]
    evaluation: Sequence[EncodedExample]
    tokenizer: PreTrainedTokenizerBase
    limits: BaseLimits

    def faults(self) -> list[Fault]:
        """What is found that a recipe may allow."""
        train, evaluation, tokenizer = self.train, self.evaluation, self.tokenizer
        encode = Encoder.of(tokenizer, self.recipe.task)
        ends = end_tokens(tokenizer, self.limits.generation_config, encode.answer_end)
        return [
            *label_faults(train, tokenizer, encode.answer_end),
            *double_bos(train, evaluation, tokenizer),
            *answers_cut(train, evaluation, self._task, tokenizer, ends),
            *train_in_eval(train, evaluation),
            *labels_alike(train, evaluation),
            *never_chosen(evaluation, self.recipe.evaluation),
            *([] if self.limits.learned else self._too_long()),
            *open_thinking(encode.chat),
        ]

    def never_allowed(self) -> list[str]:
        """What leaves nothing to train on, no way to score, what the model cannot compute, and what has no effect."""
        messages = []
        if not any(has_label(row) for row in self.train):
            messages.append("no train row has a label, so there is nothing to train on; look at the source's answers")
        messages += silent_choices(self.evaluation) + unknown_ids(self._splits, self.limits)
        messages += unused_settings(self.recipe, [*self.train, *self.evaluation])
        return messages + [f"{fault.found}; {fault.advice}" for fault in self._too_long() if self.limits.learned]

    def notes(self) -> list[str]:
        """What is odd and no fault."""
        notes = [repeats(split, rows) for split, rows in self._splits.items()]
        notes += [tokens_in_text(split, rows, self.tokenizer) for split, rows in self._splits.items()]
        notes.append(rewritten(self.evaluation, self._task, self.tokenizer))
        notes.append(also_never_chosen(self.evaluation, self.recipe.evaluation))
        return [note for note in notes if note]

    @property
    def _task(self) -> Task:
        return task_for(self.recipe.task)

    @property
    def _splits(self) -> dict[str, Sequence[EncodedExample]]:
        return {"train": self.train, "eval": self.evaluation}

    def _too_long(self) -> list[Fault]:
        return too_long_rows(self._splits, self.limits, self._task)
