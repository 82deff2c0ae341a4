"""The settings of the task `rows`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from heft.errors import HeftError
from heft.tasks.base import TaskSettings
from heft.tasks.choices import ChoiceFormat
from heft.tasks.rows.template import Template
from heft.tasks.table import absolute, read_table, require_encoding, splits_of
from heft.text.listing import listed

LABELS_FOUND = "labels"
"""What `choices` says for the labels that the training rows have."""
EVAL_SHARE = 0.2


def _as_rows(value: Any) -> Any:
    """Tables in memory as a list of dicts of values that JSON has; paths and ids as text, an empty list as it is."""
    if value is None or isinstance(value, str) or (isinstance(value, list) and not value):
        return value
    if isinstance(value, Path):
        return str(value)
    if len(splits := splits_of(value)) > 1:
        raise ValueError(
            f"has the splits {listed(splits)}, and one table was expected; give one, such as data[{splits[0]!r}], and"
            " another as eval"
        )
    try:
        return [row for _, row in read_table(value)]
    except HeftError as error:
        raise ValueError(str(error)) from None


RowSource = Annotated[
    Annotated[str, Field(min_length=1)] | Annotated[list[dict[str, Any]], Field(min_length=1)],
    BeforeValidator(_as_rows),
]
"""A path, an id on the Hub, or rows."""


class RowsSettings(TaskSettings):
    """Your own rows: a JSON Lines, JSON, CSV, TSV or Parquet file, a data set on the Hub, or rows in Python.

    Rows with `prompt` and `completion`, with `question`, `choices` and `answer`, with `messages` or `conversations`, or
    with `instruction` and `output` (Alpaca) need no more settings. For others, `prompt` and `answer` say which columns
    make the prompt and hold the answer, and `choices` what the answer is one of. `heft init` writes such a recipe.
    """

    name: Literal["rows"] = "rows"
    """Your own rows: text with labels, questions with choices, prompts with completions, or chats."""
    train: RowSource
    """Rows to train on: the path of a file (relative: from the recipe's folder), an id on the Hub (`owner/name`,
    `owner/name:config`), or the rows themselves."""
    eval: RowSource | None = None
    """Rows to evaluate on, likewise; null sets some of `train` aside."""
    eval_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of the rows that is set aside where `eval` is null: at random (`sample_seed`), equally of every label, rows
    of one prompt together. null is 0.2."""
    train_split: str | None = Field(default=None, min_length=1)
    """Split of `train`, if it is a data set with splits; null is its only one, or `train`."""
    eval_split: str | None = Field(default=None, min_length=1)
    """Split to evaluate on, of `eval`, or of `train` where that is null."""
    encoding: str | None = None
    """Encoding of text files that are not in Unicode, such as cp1252 (Excel's CSV in Western Europe); UTF-8
    and UTF-16 are recognised."""
    prompt: str | None = Field(default=None, min_length=1)
    """What the model reads, with columns in braces, such as "Ticket: {text}\\nCategory:"; braces of the text's own are
    written twice. Dots lead into columns that hold objects or lists: `{translation.en}`."""
    answer: str | None = Field(default=None, min_length=1)
    """Column that holds the answer, or a part of one, such as `answers.text.0`."""
    choices: Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]] | None = None
    """What the answer is one of: `labels` (those in the training rows), a list of labels, a column that holds the
    choices of each row, or a list of columns that hold one each. The answer is then the text of one or, where each row
    has its own, its index from 0, its letter, its label in the row, or its column. Where `answer` is one of the columns
    itself, that one is right, and the order is drawn."""
    label_names: Annotated[list[str], Field(min_length=1)] | Annotated[dict[str, str], Field(min_length=1)] | None = (
        None
    )
    """Names for labels: a list for 0, 1, …, or a mapping such as {"1": refund, "2": delay}."""
    messages: str | None = Field(default=None, min_length=1)
    """Column that holds chats, in OpenAI's shape (`role`, `content`) or ShareGPT's (`from`, `value`); null looks for
    `messages` and `conversations`."""
    train_on: Literal["last", "all"] = "last"
    """For chats: the last turn of the assistant, or all of them, each with what was said before it."""
    system: str | None = Field(default=None, min_length=1)
    """System prompt of every row that has none of its own; needs `chat_template: true`."""
    format: ChoiceFormat = "cloze"
    """For rows with choices: cloze does not show them, and the text of one is the answer, which small models learn from
    few rows; letters lists them in the prompt, and a letter is the answer."""
    max_new_tokens: int = Field(default=64, ge=1)
    """For generated answers: tokens at most."""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """For generated answers: texts at which an answer ends."""
    sample_seed: int = 0
    """Seed of the rows that are set aside, and of those that a limit selects."""

    @classmethod
    def located(cls, values: Mapping[str, Any], folder: Path | None = None) -> dict[str, str]:
        return {key: absolute(values[key], folder) for key in ("train", "eval") if isinstance(values.get(key), str)}

    @field_validator("eval_share")
    @classmethod
    def _share_is_of_train(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("eval") is not None:
            raise ValueError("has no effect beside eval, whose rows are evaluated; remove one of the two")
        return value

    @field_validator("eval_split")
    @classmethod
    def _split_or_share(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("eval_share") is not None:
            raise ValueError("has no effect beside eval_share, which sets rows aside; remove one of the two")
        return value

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, value: str | None) -> str | None:
        return value if value is None else require_encoding(value)

    @field_validator("prompt")
    @classmethod
    def _prompt_is_a_template(cls, value: str | None) -> str | None:
        if value is not None and not Template(value).columns:
            raise ValueError(
                f"names no column, so all prompts would be the same; put columns in braces, as {{{value.split()[0]}}}"
            )
        return value

    @field_validator("answer")
    @classmethod
    def _prompt_and_answer_go_together(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("prompt", "") is None:
            raise ValueError('needs prompt, such as prompt: "{text}\\nAnswer:"')
        if value is not None and value in Template(info.data.get("prompt") or "").columns:
            raise ValueError(f"{value} stands in prompt too, which would tell it; end prompt where the answer begins")
        return value

    @field_validator("choices", "label_names")
    @classmethod
    def _there_is_an_answer(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and "answer" in info.data and info.data["answer"] is None:
            raise ValueError("needs answer, the column that holds the label or the right choice")
        entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        texts = [text.strip() for text in entries]
        if not all(texts):
            raise ValueError(f"must have texts that are not empty; got {value}")
        if isinstance(value, list) and len(set(texts)) < len(texts):
            raise ValueError(f"must not repeat an entry; got {value}")
        if isinstance(value, list) and info.field_name == "choices" and len(value) < 2:
            raise ValueError(f"must be at least two; got {value}")
        return value

    @field_validator("messages")
    @classmethod
    def _either_chats_or_prompts(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("prompt") is not None:
            raise ValueError("has no effect beside prompt; remove one of the two")
        return value

    @field_validator("system")
    @classmethod
    def _system_needs_a_template(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("chat_template") is False:
            raise ValueError("needs chat_template: true; without it, write it into prompt")
        return value
