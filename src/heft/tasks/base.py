"""A task: examples made from rows, and the check of an answer where answers are generated."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from heft.errors import HeftError
from heft.settings.base import Settings
from heft.settings.words import show
from heft.tasks.example import Example, choice_example, generation_example, without_answer
from heft.tasks.sources import Row, Source, read_rows
from heft.tasks.table import absolute

Split = Literal["train", "eval"]

_NAMED_SOURCES = ("hub", "wheel")
_TEMPLATE_PARAMETERS = {
    *("messages", "conversation", "chat_template", "tools", "documents", "add_generation_prompt", "tokenize"),
    *("continue_final_message", "sanitize_control_tokens", "padding", "truncation", "max_length", "return_tensors"),
    *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
}
_KIND_WORDS = {str: "text", bool: "true or false", int: "a whole number", list: "a list", dict: "an object"}


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

    def missed_form(self, text: str) -> str | None:
        """The form in which rows are asked, where a typed prompt lacks it; None where it has it, or nothing tells."""
        return None

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

    def given_answer(self, row: dict) -> Any:
        """What a row has as its answer, as it stands; None where it has none."""
        return None if self.answer_field is None else row.get(self.answer_field)

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
