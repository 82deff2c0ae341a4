"""A task: examples made from rows, and the check of an answer where answers are generated."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from heft.errors import HeftError
from heft.settings.base import Settings
from heft.settings.words import show
from heft.tasks.sources import Row, Source, read_rows
from heft.tasks.table import absolute
from heft.text.folding import plain

Split = Literal["train", "eval"]

_NAMED_SOURCES = ("hub", "wheel")
_TEMPLATE_PARAMETERS = {
    *("messages", "conversation", "chat_template", "tools", "documents", "add_generation_prompt", "tokenize"),
    *("continue_final_message", "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors"),
    *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
}
_KIND_WORDS = {str: "text", bool: "true or false", int: "a whole number", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class Example:
    """One question as text, before any tokenizer or chat template.

    Raises:
        HeftError: a field is not as described here.
    """

    id: str
    """16 hex digits from the content, so the same on every machine; repeats within a split get -2, -3, …"""
    prompt: str
    """Not empty, no whitespace at the end."""
    choices: tuple[str, ...]
    """Each continues the prompt and begins with whitespace; empty where the answer is generated."""
    gold: int | None
    """Index into choices; None where the answer is generated, or not known."""
    answer: str
    """What is trained on after the prompt, beginning with whitespace; choices[gold] where there are choices. Empty: the
    answer is not known."""
    group: str | None = None
    """Equal for examples that share a text, for clustered statistics; None where nothing is shared."""
    target: str | None = None
    """The reference final answer where answers are generated; None where it is not known."""
    question: str | None = None
    """The question, where the prompt has more, such as the options; None where the prompt is the question."""
    options: tuple[str, ...] | None = None
    """What the choices stand for, where they are names such as letters; None where they are the options themselves."""
    turn: str | None = None
    """The answer as a chat turn, where whitespace at its beginning is part of it; None: the answer without any."""
    turns: tuple[tuple[str, str], ...] | None = None
    """What a chat has before the answer, (role, content) each; None: the prompt, as a user's turn."""
    place: str | None = field(default=None, compare=False)
    """Where its row stands, such as `tickets.csv:12`; None where it is of no file."""

    def __post_init__(self) -> None:
        faults = []
        if not self.prompt or self.prompt[-1].isspace():
            faults.append(f"the prompt must be text that ends without whitespace; it ends in {self.prompt[-20:]!r}")
        for text in (*self.choices, self.answer) if self.answered else self.choices:
            if not text[:1].isspace() or not text.strip():
                faults.append(f"a choice or answer must begin with whitespace and not be empty; got {text[:40]!r}")
        if not self.answered:
            if self.gold is not None or self.target is not None:
                faults.append("an example without an answer has neither gold nor target")
        elif self.choices and (self.gold not in range(len(self.choices)) or self.answer != self.choices[self.gold]):
            faults.append(
                f"gold must be an index into {len(self.choices)} choices and answer that choice; got {self.gold}"
            )
        elif not self.choices and (self.gold is not None or self.target is None):
            faults.append("an example without choices needs a target and has no gold")
        if self.options is not None and len(self.options) != len(self.choices):
            faults.append(f"there must be as many options as choices; got {len(self.options)} and {len(self.choices)}")
        if faults:
            raise HeftError("; ".join(faults))

    @property
    def answered(self) -> bool:
        """Whether the right answer is known."""
        return bool(self.answer)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the choices stand for, in words; empty where the answer is generated."""
        return tuple(text.strip() for text in (self.choices if self.options is None else self.options))

    @property
    def asked(self) -> tuple[str, tuple[str, ...], str]:
        """The question, its options and the right one, or the answer: what the example says in whichever format."""
        options = self.choices if self.options is None else self.options
        question = self.prompt if self.question is None else self.question
        return question, options, self.answer if self.gold is None else options[self.gold]

    @property
    def asks(self) -> tuple[str, ...]:
        """The question and its options, in any order: equal for examples that ask the same."""
        question, options, _ = self.asked
        return plain(question), *sorted(map(plain, options))


def content_hash(*parts: object) -> str:
    """16 hex digits of the SHA-256 of the parts, written as JSON."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8")).hexdigest()[:16]


def choice_example(
    task_name: str,
    prompt: str,
    options: Sequence[str],
    gold: int | None,
    group: str | None = None,
    question: str | None = None,
    named: Sequence[str] | None = None,
) -> Example:
    """An example scored by the likelihood of its choices; each option is continued after one space.

    `gold` is the index of the right one, None where that is not known. `group` is the shared text itself, whose hash
    is stored; `question` and `named` are an `Example`'s `question` and `options`, for a prompt that lists them and
    options that are their names.
    """
    choices = tuple(f" {option.strip()}" for option in options)
    return Example(
        id=content_hash(task_name, prompt, choices, gold),
        prompt=prompt,
        choices=choices,
        gold=gold,
        answer="" if gold is None else choices[gold],
        group=None if group is None else content_hash(group),
        question=question,
        options=None if named is None else tuple(named),
    )


def generation_example(
    task_name: str, prompt: str, answer: str = "", target: str | None = None, turn: str | None = None
) -> Example:
    """An example whose answer is generated: `answer` is trained on (in a chat, `turn`), `target` is checked against.

    Without them the answer is not known.
    """
    return Example(
        id=content_hash(task_name, prompt, (), answer),
        prompt=prompt,
        choices=(),
        gold=None,
        answer=answer,
        target=target,
        turn=turn,
    )


def without_answer(example: Example) -> Example:
    """The same example with its answer not known."""
    return replace(example, gold=None, answer="", target=None, turn=None)


class TaskSettings(Settings):
    """Settings of every task."""

    name: Any
    """Name of the task; each task's own settings say which text it is."""
    train_limit: int | None = Field(default=None, ge=1)
    """Most rows to train on; null is all of them."""
    eval_limit: int | None = Field(default=None, ge=1)
    """Most rows to evaluate on; null is all of them."""
    sample_seed: int = 0
    """Seed of the rows that a limit selects; a smaller limit selects a subset of a larger one's."""
    chat_template: bool = False
    """Apply the tokenizer's chat template, with the prompt as the user's turn."""
    chat_template_args: dict[str, bool | int | float | str] = Field(default={})
    """Variables passed to the chat template, such as {enable_thinking: false}; needs `chat_template: true`."""
    template_date: str | None = None
    """Today's date (YYYY-MM-DD) for the chat template; null: the day on which the run begins, which is written into
    the run's recipe, so that a resumed run and `heft eval` use it too."""
    max_length: int = Field(default=512, ge=8)
    """Most tokens of prompt and answer together (TRL: `max_length`)."""

    @classmethod
    def located(cls, values: Mapping[str, Any], folder: Path | None = None) -> dict[str, str]:
        """Those of a task's settings that are paths of rows, absolute.

        Args:
            values: the settings, perhaps with faults.
            folder: what relative paths count from; None for the working directory.
        """
        return {}

    @field_validator("chat_template_args", "template_date")
    @classmethod
    def _there_is_a_template(cls, value: dict | str | None, info: ValidationInfo) -> dict | str | None:
        if value and info.data.get("chat_template") is False:
            raise ValueError(f"{info.field_name} has an effect with chat_template: true only; set that, or remove it")
        return value

    @field_validator("chat_template_args")
    @classmethod
    def _args_are_the_templates(cls, value: dict) -> dict:
        taken = sorted(_TEMPLATE_PARAMETERS & value.keys())
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot be set: heft passes that to the chat template itself")
        return value

    @field_validator("template_date")
    @classmethod
    def _date_is_a_date(cls, value: str | None) -> str | None:
        try:
            is_date = value is None or date.fromisoformat(value).isoformat() == value
        except ValueError:
            is_date = False
        if not is_date:
            raise ValueError(f"expected a date as YYYY-MM-DD, such as 2026-01-31; got {value!r}")
        return value


class SplitSettings(TaskSettings):
    """A task whose rows are a published data set with named splits."""

    sources: ClassVar[Mapping[str, Source]] = {}
    """Where rows can come from, beside a folder, by the name that `source` has for it."""

    source: str = Field(default="hub", min_length=1)
    """Where rows come from: hub, the path of a folder that holds `<split>.jsonl` (relative: from the recipe's folder),
    or, for boolq, wheel."""
    train_split: str = Field(default="train", min_length=1)
    """The split to train on."""
    eval_split: str = Field(default="validation", min_length=1)
    """The split to evaluate on."""

    @classmethod
    def located(cls, values: Mapping[str, Any], folder: Path | None = None) -> dict[str, str]:
        source = values.get("source", "hub")
        is_path = isinstance(source, str) and source not in (*_NAMED_SOURCES, *cls.sources)
        return {"source": absolute(source, folder)} if is_path else {}

    @field_validator("source")
    @classmethod
    def _source_exists_for_the_task(cls, value: str) -> str:
        if value in _NAMED_SOURCES and value not in cls.sources:
            expected = ", ".join([*cls.sources, "the path of a folder of JSON Lines"])
            raise ValueError(f"this task has no source {value!r}; expected {expected}")
        return value


class Task(ABC):
    """How rows become examples. A subclass is one file: its settings, its row format, its prompt, its answer check."""

    settings_type: ClassVar[type[TaskSettings]]
    generates: ClassVar[bool] = False
    """Whether every answer is generated, so that no example has choices."""
    answers_are_texts: ClassVar[bool] = False
    """Whether a generated answer is compared as the text that it is, so that it can be like the reference in part."""
    fields: ClassVar[Mapping[str, type]] = {}
    """The fields that a row must have, and their types."""
    answer_field: str | None = None
    """The field that holds the right answer, which a row to predict on need not have; None: no field alone does."""
    stop: tuple[str, ...] = ()
    """Where a generated answer ends; never part of it."""

    def __init__(self, settings: TaskSettings):
        self.settings = settings

    @property
    def name(self) -> str:
        """What a recipe calls it."""
        return self.settings.name

    @property
    def max_new_tokens(self) -> int:
        """Tokens generated at most; 0 where nothing is generated."""
        return getattr(self.settings, "max_new_tokens", 0)

    def rows(self, split: Split) -> Iterator[Row]:
        """Every row of a split, with its place.

        Raises:
            HeftError: the source is missing, unreadable or empty.
        """
        settings = self.settings
        name = settings.train_split if split == "train" else settings.eval_split
        return read_rows(settings.source, name, settings.sources)

    @property
    def common_choices(self) -> tuple[str, ...] | None:
        """The choices that every row has, in words; None where rows have their own, or none."""
        return None

    def prompted(self, text: str) -> Example:
        """The example of a prompt that a person typed, as the model is to see it; its answer is not known."""
        if self.common_choices is None:
            return generation_example(self.name, text.rstrip())
        return choice_example(self.name, text.rstrip(), self.common_choices, None)

    def row_faults(self, row: dict) -> list[str]:
        """What is missing from a row or of the wrong type."""
        return field_faults(row, self.fields)

    def question_faults(self, row: dict) -> list[str]:
        """As `row_faults`, of what is needed to predict the answer."""
        return field_faults(row, {name: kind for name, kind in self.fields.items() if name != self.answer_field})

    @abstractmethod
    def example(self, row: dict) -> Example:
        """The example of one row that has no faults of type; the answer is not known where `answer_field` is missing.

        Raises:
            HeftError: a value is out of range; the message says which, without the place.
        """

    def question(self, row: dict) -> Example:
        """The example of a row without looking at its answer, which need not be there; otherwise as `example`."""
        return without_answer(self.example({name: row[name] for name in row if name != self.answer_field}))

    def examples(self, row: dict) -> Sequence[Example]:
        """All examples of one row, as `example`: one, unless the task makes more of it."""
        return [self.example(row)]

    def setting_faults(self) -> dict[str, str]:
        """What is wrong with settings beside the rows, by setting, such as a column that is not there."""
        return {}

    def resolved(self) -> TaskSettings:
        """The settings as a run keeps them: what the training rows decide is written out, and paths of rows absolute.

        Raises:
            HeftError: the training rows cannot be read.
        """
        return self.settings.model_copy(update=self.settings.located(dict(self.settings)))

    def prediction(self, text: str) -> str | None:
        """The final answer in a generated text, in the form that is compared; None where there is none."""
        raise TypeError(f"{self.name} is scored by the likelihood of its choices, not by generated text")

    def is_correct(self, example: Example, text: str) -> bool:
        """Whether a generated text answers the example."""
        if example.choices:
            raise TypeError(f"{self.name} is scored by the likelihood of its choices, not by generated text")
        return self.prediction(text) == example.target


def field_faults(row: dict, fields: Mapping[str, type]) -> list[str]:
    """One message for each field that is missing, of another type, or empty text."""
    faults = []
    for name, kind in fields.items():
        if name not in row:
            faults.append(f"{name} is missing (the row has {', '.join(map(str, row)) or 'no fields'})")
        elif not isinstance(row[name], kind) or (kind is int and isinstance(row[name], bool)):
            hint = quotes_hint(row[name]) if kind is str else ""
            faults.append(f"{name} must be {_KIND_WORDS[kind]}; got {show(row[name])}{hint}")
        elif kind is str and not row[name].strip():
            faults.append(f"{name} is empty")
    return faults


def quotes_hint(value: object) -> str:
    """What to do about a number or truth value where text is expected; empty for other values."""
    if not isinstance(value, bool | int | float):
        return ""
    return f"; if this is its text, put it in quotes: {json.dumps(json.dumps(value))}"


def index_among(row: dict, name: str, allowed: Sequence[object]) -> int | None:
    """The index of a field's value among those allowed; None without the field. A HeftError: it is none of them."""
    if name not in row:
        return None
    if row[name] not in allowed:
        raise HeftError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {show(row[name])}")
    return allowed.index(row[name])
