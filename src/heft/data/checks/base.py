"""Rows beside the base model: ids that it has no embedding for, rows longer than it has positions, open thinking."""

from collections.abc import Sequence

from heft.data.checks.fault import Fault, count, such_as
from heft.data.encode import EncodedExample
from heft.errors import HeftError
from heft.models.chat import ChatTemplate
from heft.models.limits import BaseLimits
from heft.tasks.base import Task


def unknown_ids(splits: dict[str, Sequence[EncodedExample]], limits: BaseLimits) -> list[str]:
    """Rows with token ids beyond the input embedding, which no model can compute; a message, or none."""
    if limits.embeddings is None:
        return []
    messages = []
    for split, rows in splits.items():
        there = [row for row in rows if _largest_id(row) >= limits.embeddings]
        if there:
            worst = max(there, key=_largest_id)
            messages.append(
                f"{count(there, len(rows), split)} have token ids up to {_largest_id(worst):,}, and the model has"
                f" embeddings for 0 to {limits.embeddings - 1:,}, {such_as(worst)}; its tokenizer has tokens of its own"
                " that the model was not resized for: resize it (resize_token_embeddings) and save both, or take the"
                " tokenizer that came with it"
            )
    return messages


def silent_choices(evaluation: Sequence[EncodedExample]) -> list[str]:
    """Evaluation rows with a choice that has no tokens, and so no likelihood; a message, or none."""
    silent = [row for row in evaluation if not all(row.choices)]
    if not silent:
        return []
    return [
        f"{count(silent, len(evaluation), 'eval')} have a choice without tokens, which no likelihood can score, such as"
        f" {silent[0].example.choices}; change or remove them"
    ]


def too_long_rows(splits: dict[str, Sequence[EncodedExample]], limits: BaseLimits, task: Task) -> list[Fault]:
    """Rows of more tokens than the model has positions, with what may be generated after evaluation prompts."""
    if limits.positions is None:
        return []
    found = []
    for split, rows in splits.items():
        sizes = [_evaluated(row, task.max_new_tokens) if split == "eval" else row.length for row in rows]
        there = [row for row, size in zip(rows, sizes, strict=True) if size > limits.positions]
        if there:
            what = " with what may be generated" if split == "eval" and not rows[0].choices else ""
            found.append(
                f"{count(there, len(rows), split)} have up to {max(sizes):,} tokens{what}, and the model has"
                f" {limits.positions:,} positions, {such_as(there[0])}"
            )
    advice = f"lower task.max_length to {limits.positions:,} or less, with room for task.max_new_tokens"
    return [Fault("beyond_positions", "; ".join(found), advice)] if found else []


def require_computable(rows: Sequence[EncodedExample], limits: BaseLimits, task: Task) -> None:
    """Require that a model can compute evaluation rows.

    Raises:
        HeftError: a choice has no tokens, or the model has no embedding for tokens of rows, or no positions.
    """
    splits = {"eval": rows}
    messages = silent_choices(rows) + unknown_ids(splits, limits)
    messages += [f"{fault.found}; {fault.advice}" for fault in too_long_rows(splits, limits, task) if limits.learned]
    if messages:
        raise HeftError("\n".join(messages))


def open_thinking(chat: ChatTemplate | None) -> list[Fault]:
    """A chat template whose prompts end within a thinking block, so that answers are trained as thoughts."""
    tag = None if chat is None else chat.opens_thinking
    if tag is None:
        return []
    found = f"the chat template opens a thinking block ({tag}) at the end of prompts, so that answers are its thoughts"
    advice = "begin the answers with the thought and the tag that closes it"
    if chat.takes("enable_thinking"):
        advice = "set task.chat_template_args to {enable_thinking: false}"
    return [Fault("open_thinking", found, advice)]


def _largest_id(row: EncodedExample) -> int:
    return max(max(ids, default=0) for ids in (row.prompt, row.answer, *row.choices))


def _evaluated(row: EncodedExample, new_tokens: int) -> int:
    """The most tokens that a row is evaluated with: the last one of a choice or of a generated text is never read."""
    return len(row.prompt) + max(map(len, row.choices), default=new_tokens) - 1
