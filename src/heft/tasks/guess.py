"""What a table's rows are for, decided from its columns: `guess_task`, with the reason in words.

The rules, in order: keys that name a kind (chat, prompt and completion, question with choices, Alpaca); a column of
labels beside a column of text; columns of choices with a column that says which is right; two columns of text.
"""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from heft.errors import HeftError
from heft.tasks.rows.kinds import CHAT_COLUMNS
from heft.tasks.rows.template import text_of
from heft.tasks.table import Row

LABEL_NAMES = ("label", "labels", "category", "class", "intent", "sentiment", "target", "topic", "tag", "type", "y")
ANSWER_NAMES = ("answer", "completion", "output", "response", "reply", "summary", "target", "translation", "label")
TEXT_NAMES = ("text", "sentence", "prompt", "question", "input", "message", "body", "content", "review", "query")
GOLD_NAMES = ("answer", "label", "correct", "gold", "answerkey", "correct_answer", "target", "solution")
_CHOICE_NAME = re.compile(r"(?i)(?:[a-h]|(?:option|choice|sol|ending|answer|opt)_?-?\s?(?:[a-h]|\d\d?))")
_ID_NAME = re.compile(r"(?i)(?:.*[_ -])?(?:id|idx|index|uuid|guid|key|number|nr|no)|unnamed: \d+|.*(?:Id|ID)")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?(?:[T ].*)?|\d\d?[./]\d\d?[./]\d{2,4}(?: .*)?")
_MOST_LABELS = 200
_ROWS_PER_LABEL = 3
"""Rows that a label has on average at least: fewer, and the column is text, not labels."""
_LABEL_LENGTH = 60


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


@dataclass(frozen=True)
class Column:
    """What a column's cells are like; empty ones are not counted among the values."""

    name: str
    values: Sequence[str]
    lists: int
    rows: int

    @property
    def distinct(self) -> int:
        return len(set(self.values))

    @property
    def length(self) -> float:
        """Mean number of characters."""
        return sum(map(len, self.values)) / max(1, len(self.values))

    @property
    def is_date(self) -> bool:
        return bool(self.values) and all(_DATE.fullmatch(value) for value in self.values)

    @property
    def is_number(self) -> bool:
        return bool(self.values) and all(re.fullmatch(r"[+-]?\d+(?:[.,]\d+)?", value) for value in self.values)

    @property
    def is_id(self) -> bool:
        """A name for the row: called so, or numbers or single words that are different in (nearly) every row."""
        if _ID_NAME.fullmatch(self.name):
            return True
        words = any(re.search(r"\s", value) for value in self.values)
        return not words and self.length < 40 and self.rows >= 10 and self.distinct > 0.9 * self.rows

    @property
    def can_be_labels(self) -> bool:
        """Whether few short values come again and again."""
        if not self.values or self.is_date or self.lists or self.distinct < 2:
            return False
        few = self.distinct <= min(_MOST_LABELS, max(2, self.rows / _ROWS_PER_LABEL))
        decimal = self.is_number and any(re.search(r"[.,]\d*[1-9]", value) for value in self.values)
        return few and not decimal and max(map(len, self.values)) <= _LABEL_LENGTH and not _ID_NAME.fullmatch(self.name)

    @property
    def is_text(self) -> bool:
        """Whether it can be read in most rows: words, not an id, a date, a number or the same everywhere."""
        is_there = self.distinct > 1 and len(self.values) >= 0.7 * self.rows
        return is_there and not (self.is_id or self.is_date or self.is_number or self.lists)


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
    if answer is not None and answer not in columns:
        raise HeftError(f"there is no column {answer!r}; the columns are {', '.join(columns)}")
    if prompt is None and answer is None and (known := _by_keys(columns)) is not None:
        return known
    choices = _choice_columns(columns)
    gold = _gold_of(columns, choices, rows, answer) if choices else None
    if gold is not None:
        return _choices_guess(columns, choices, gold, prompt)
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
        f' need be, the prompt with --prompt, such as --prompt "{{{text.name}}}\\n{_heading(last.name)}:" --answer'
        f" {shlex.quote(last.name)}"
    )


def columns_of(rows: Sequence[Row]) -> dict[str, Column]:
    """The columns of a table, in order."""
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    columns = {}
    for name in names:
        cells = [row.get(name) for _, row in rows]
        texts = [text for cell in cells if (text := text_of(cell)) is not None and text.strip()]
        lists = sum(isinstance(cell, list) for cell in cells)
        columns[name] = Column(name, [text.strip() for text in texts], lists, len(rows))
    return columns


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
    if {"question", "choices", "answer"} <= names and columns["choices"].lists:
        return Guess("choices", "The columns are 'question', 'choices' and 'answer': one choice of each row is right.")
    if {"instruction", "output"} <= names:
        return Guess("completion", "The columns are Alpaca's, 'instruction' and 'output': the output is generated.",
                     {"chat_template": True})  # fmt: skip
    return None


def _choice_columns(columns: dict[str, Column]) -> list[str]:
    """Columns that are called as choices are (A, B, …; option1, …), at least two of one series; else none."""
    found = [name for name in columns if _CHOICE_NAME.fullmatch(name)]
    series: dict[str, list[str]] = {}
    for name in found:
        series.setdefault(re.sub(r"\d+$|.$", "", name).lower(), []).append(name)
    best = max(series.values(), key=len, default=[])
    return best if len(best) >= 2 else []


def _gold_of(
    columns: dict[str, Column], choices: list[str], rows: Sequence[Row], answer: str | None
) -> tuple[str, dict[str, str] | None] | None:
    """The column that says which choice is right, with names for its values where they are not those that the task
    `rows` reads: letters, numbers from 1, or from 0 among choices that are such numbers themselves.

    Values that are the texts of choices in every row are these, even where they are letters or small numbers too.
    """
    names = [answer] if answer else [n for n in columns if n.lower() in GOLD_NAMES and n not in choices]
    for name in names:
        values = set(columns[name].values)
        if not values:
            continue
        if values <= set(choices) or all(_is_text_of_a_choice(row, name, choices) for _, row in rows):
            return name, None
        from_0, from_1 = ({str(i): column for i, column in enumerate(choices, start)} for start in (0, 1))
        if values <= from_0.keys() and not (values <= from_1.keys() and _are_numbered(choices, from_1)):
            are_alike = any(from_0.keys() & set(columns[choice].values) for choice in choices)
            return name, from_0 if are_alike else None
        if values <= from_1.keys():
            return name, from_1
        for letters in (ascii_uppercase, ascii_lowercase):
            named = dict(zip(letters, choices, strict=False))
            if values <= named.keys():
                return name, named
    return None


def _is_text_of_a_choice(row: dict[str, Any], name: str, choices: Sequence[str]) -> bool:
    """Whether a row's answer, if it has one, is what stands in one of the columns of choices."""
    answer, *texts = ((text_of(row.get(column)) or "").strip() for column in (name, *choices))
    return not answer or answer in texts


def _are_numbered(choices: Sequence[str], numbers: Mapping[str, str]) -> bool:
    """Whether the names of columns end with the numbers that stand for them."""
    return all(column.endswith(number) for number, column in numbers.items())


def _choices_guess(
    columns: dict[str, Column], choices: list[str], gold: tuple[str, dict[str, str] | None], prompt: str | None
) -> Guess:
    answer, names = gold
    settings = {"prompt": prompt or _template(columns, [*choices, answer], "Answer"), "answer": answer}
    settings |= {"choices": choices} | ({"label_names": names} if names else {})
    why = f"{', '.join(map(repr, choices))} hold the choices of each row, and {answer!r} says which is right"
    from_1 = names is not None and "1" in names and "0" not in names
    return Guess("choices", why + (", counted from 1." if from_1 else "."), settings)


def _label_column(columns: dict[str, Column]) -> Column | None:
    """The column of labels: one that is called so, else the only one that can be."""
    possible = [column for column in columns.values() if column.can_be_labels]
    called = [column for name in LABEL_NAMES for column in possible if column.name.lower() == name]
    if called:
        return called[0]
    is_answer = [column for column in possible if column.name.lower() in ANSWER_NAMES]
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
    template = prompt or _template(columns, [target.name], _heading(target.name))
    why = (
        f"{target.name!r} has {len(counts)} different values in {len(target.values):,} rows ({shown}), so they are"
        " labels, one of which is to be chosen."
    )
    if target.is_number:
        why += " They are numbers: task.label_names can name them, which helps the model."
    settings = {"prompt": template, "answer": target.name, "choices": "labels"}
    return Guess("labels", why, settings, counts)


def _named_answer(columns: dict[str, Column]) -> Column | None:
    return next((c for name in ANSWER_NAMES for c in columns.values() if c.name.lower() == name and c.values), None)


def _answer_column(columns: dict[str, Column]) -> Column | None:
    """The column of a text to generate: one that is called so, else the second of two that can be read."""
    readable = [column for column in columns.values() if column.is_text]
    named = _named_answer(columns)
    if named is not None and any(column is not named for column in readable):
        return named
    return readable[1] if len(readable) == 2 else None


def _completion_guess(columns: dict[str, Column], target: Column, prompt: str | None) -> Guess:
    template = prompt or _template(columns, [target.name], _heading(target.name))
    why = (
        f"{target.name!r} has {target.distinct:,} different texts in {len(target.values):,} rows, {target.length:.0f}"
        " characters on average, so the answer is generated."
    )
    return Guess("completion", why, {"prompt": template, "answer": target.name})


def _template(columns: dict[str, Column], taken: Sequence[str], heading: str) -> str:
    """A prompt of the columns that can be read, the one that is called so first, under their names if several."""
    readable = [column for name, column in columns.items() if name not in taken and column.is_text]
    free = [column for column in readable if column.name.strip() and not re.search("[{}]", column.name)]
    text = [column for column in free if not column.can_be_labels] or free
    if not text and readable:
        raise HeftError(
            f"no prompt can name the column {readable[0].name!r}; give it a name that is not empty and has no braces"
        )
    if not text:
        raise HeftError(
            f"no column of {', '.join(columns)} beside {', '.join(taken)} holds text that a prompt could be made of;"
            f' give one with --prompt, such as --prompt "{{{_other(columns, taken)}}}\\nAnswer:"'
        )
    order = {name: place for place, name in enumerate(TEXT_NAMES)}
    named = [column for column in text if column.name.lower() in order]
    chosen = named if len(named) == 1 and len(text) > 2 else text[:3]
    lines = [f"{_heading(column.name)}: {{{column.name}}}" for column in chosen]
    return "\n".join([*lines, f"{heading}:"])


def _other(columns: dict[str, Column], taken: Sequence[str]) -> str:
    """A column for an example of a prompt, whatever it holds."""
    return next((name for name in columns if name not in taken), next(iter(columns)))


def _heading(name: str) -> str:
    """A column's name as text of a template."""
    words = re.sub(r"[_\s-]+", " ", name).strip()
    return (words[:1].upper() + words[1:]).replace("{", "{{").replace("}", "}}")
