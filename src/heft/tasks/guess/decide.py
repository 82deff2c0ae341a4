"""What a table's rows are for, decided from its columns: `guess_task`, with the reason in words.

The rules, in order: keys that name a kind (chat, prompt and completion, Alpaca, question with choices); choices of each
row with a column that says which is right; a column of labels beside a column of text; two columns of text.
"""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from heft.errors import HeftError
from heft.tasks.guess.choices import FoundChoices, find_choices, require_an_answer
from heft.tasks.guess.columns import Column, columns_of
from heft.tasks.guess.prompt import template_of
from heft.tasks.rows.kinds import CHAT_COLUMNS
from heft.tasks.table import Row

_LABEL_NAMES = ("label", "labels", "category", "class", "intent", "sentiment", "target", "topic", "tag", "type", "y")
_ANSWER_NAMES = (
    *("answer", "answers", "completion", "output", "response", "reply", "summary", "target", "translation", "label"),
)


@dataclass(frozen=True)
class Guess:
    """What a table is taken for.

    Attributes:
        kind: labels, choices, completion or chat.
        why: one or two sentences, for people.
        settings: of the task `rows`, but for where the rows are.
        labels: how often each label stands there, the commonest first; empty where there are none.
    """

    kind: str
    why: str
    settings: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)


def guess_task(rows: Sequence[Row], prompt: str | None = None, answer: str | None = None) -> Guess:
    """Decide what rows are for.

    Args:
        rows: of the table, all of them or the first thousands.
        prompt: template that the person gave; None to find one.
        answer: column that the person gave; None to find one.

    Raises:
        HeftError: nothing can be decided; the message lists the columns and says which flags decide it.
    """
    columns = columns_of(rows)
    columns |= {
        each.name: each for each in (column.first_of_lists for column in columns.values()) if each.name == answer
    }
    if answer is not None and answer not in columns:
        raise HeftError(f"there is no column {answer!r}; the columns are {', '.join(columns)}")
    if prompt is None and answer is None and (known := _by_keys(columns)) is not None:
        return known
    choices = find_choices(columns, rows, answer)
    if prompt is None and answer is None and _is_question(rows) and (choices is None or _needs_no_settings(choices)):
        return Guess("choices", "The columns are 'question', 'choices' and 'answer': one choice of each row is right.")
    if choices is not None:
        return _choices_guess(columns, choices, prompt)
    if answer is None:
        require_an_answer(columns, rows)
    target = columns[answer] if answer is not None else _label_column(columns)
    if target is not None and target.can_be_labels:
        return _labels_guess(columns, target, prompt)
    target = target or _answer_column(columns)
    if target is not None:
        return _completion_guess(columns, target, prompt)
    if len(columns) < 2:
        raise HeftError(f"{', '.join(columns)} is the only column; rows need one to read and one with the answer")
    readable = [column for column in columns.values() if column.is_text]
    others = [column for column in columns.values() if not column.is_text]
    text, *_, last = readable if len(readable) > 1 else [*readable, *others]
    raise HeftError(
        f"the columns {', '.join(columns)} do not say what the task is; name the answer's column with --answer and, if"
        f' need be, the prompt with --prompt, such as --prompt "{{{text.name}}}\\n{last.heading}:" --answer'
        f" {shlex.quote(last.name)}"
    )


def _by_keys(columns: dict[str, Column]) -> Guess | None:
    """What the names of the columns alone decide."""
    names = columns.keys()
    chat = next((name for name in CHAT_COLUMNS if name in names), None)
    if chat is not None:
        return Guess("chat", f"The column {chat!r} holds chats; the last turn of the assistant is trained on.",
                     {"chat_template": True})  # fmt: skip
    if {"prompt", "completion"} <= names:
        if columns["prompt"].lists:
            return Guess("chat", "'prompt' and 'completion' hold messages of chats.", {"chat_template": True})
        return Guess("completion", "The columns are 'prompt' and 'completion': the completion is generated.")
    if {"instruction", "output"} <= names:
        return Guess("completion", "The columns are Alpaca's, 'instruction' and 'output': the output is generated.",
                     {"chat_template": True})  # fmt: skip
    return None


def _is_question(rows: Sequence[Row]) -> bool:
    """Whether rows have the keys of a question with choices of its own."""
    return all(
        {"question", "choices", "answer"} <= row.keys() and not isinstance(row["choices"], str) for _, row in rows
    )


def _needs_no_settings(found: FoundChoices) -> bool:
    """Whether the task `rows` finds these choices by the keys of a row."""
    return (found.choices, found.answer, found.names) == ("choices", "answer", None)


def _choices_guess(columns: dict[str, Column], found: FoundChoices, prompt: str | None) -> Guess:
    template = prompt or template_of(columns, found.telling(columns), "Answer")
    settings = {"prompt": template, "answer": found.answer, "choices": found.choices}
    return Guess("choices", found.why, settings | ({"label_names": found.names} if found.names else {}))


def _label_column(columns: dict[str, Column]) -> Column | None:
    """The column of labels: one that is called so, else the only one that can be."""
    possible = [column for column in columns.values() if column.can_be_labels]
    called = [column for name in _LABEL_NAMES for column in possible if column.called.lower() == name]
    if called:
        return called[0]
    is_answer = [column for column in possible if column.called.lower() in _ANSWER_NAMES]
    if len(is_answer) == 1:
        return is_answer[0]
    readable = [column for column in columns.values() if column.is_text and column not in possible]
    if _named_answer(columns) is not None or len(readable) != 1:
        return None
    words = [column for column in possible if not column.is_number] or possible
    return words[0] if len(words) == 1 else None


def _labels_guess(columns: dict[str, Column], target: Column, prompt: str | None) -> Guess:
    counts = dict(Counter(target.values).most_common())
    shown = ", ".join(list(counts)[:4]) + (", …" if len(counts) > 4 else "")
    template = prompt or template_of(columns, [target.name], target.heading)
    why = (
        f"{target.name!r} has {len(counts)} different values in {len(target.values):,} rows ({shown}), so they are"
        " labels, one of which is to be chosen."
    )
    if target.is_number:
        why += " They are numbers: task.label_names can name them, which helps the model."
    settings = {"prompt": template, "answer": target.name, "choices": "labels"}
    return Guess("labels", why, settings, counts)


def _named_answer(columns: dict[str, Column]) -> Column | None:
    """The column that is called as answers are; where it holds lists, their first texts."""
    named = [each for name in _ANSWER_NAMES for each in columns.values() if each.called.lower() == name]
    filled = [each if each.values else each.first_of_lists for each in named if each.values or each.firsts]
    return next(iter(filled), None)


def _answer_column(columns: dict[str, Column]) -> Column | None:
    """The column of a text to generate: one that is called so, else the second of two that can be read."""
    readable = [column for column in columns.values() if column.is_text]
    named = _named_answer(columns)
    if named is not None and any(column is not named for column in readable):
        return named
    return readable[1] if len(readable) == 2 else None


def _completion_guess(columns: dict[str, Column], target: Column, prompt: str | None) -> Guess:
    template = prompt or template_of(columns, [target.name], target.heading)
    why = (
        f"{target.name!r} has {target.distinct:,} different texts in {len(target.values):,} rows, {target.length:.0f}"
        " characters on average, so the answer is generated."
    )
    return Guess("completion", why, {"prompt": template, "answer": target.name})
