"""A person's own JSON Lines files: prompts with completions, or questions with choices."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from heft.errors import HeftError
from heft.settings.words import show
from heft.tasks.base import Example, Split, Task, TaskSettings, field_faults, generation_example, quotes_hint
from heft.tasks.choices import ChoiceFormat, check_options, options_example, question_cloze
from heft.tasks.sources import Row, read_json_lines, user_path

_COMPLETION_FIELDS = {"prompt": str, "completion": str}
_CHOICE_FIELDS = {"question": str, "choices": list, "answer": object}
_KINDS = (_COMPLETION_FIELDS, _CHOICE_FIELDS)


class JsonlSettings(TaskSettings):
    """Your own rows: {"prompt", "completion"}, or {"question", "choices", "answer"}; one kind to a file."""

    name: Literal["jsonl"] = "jsonl"
    """Your own JSON Lines files."""
    train_file: str = Field(min_length=1)
    """Path of the file to train on."""
    eval_file: str = Field(min_length=1)
    """Path of the file to evaluate on."""
    format: ChoiceFormat = "letters"
    """For rows with choices: as in the other tasks, letters or cloze."""
    max_new_tokens: int = Field(default=64, ge=1)
    """For rows with completions: tokens generated at most."""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """For rows with completions: texts at which a generated answer ends."""


class Jsonl(Task):
    """The row's keys choose its kind; other keys are ignored.

    Completions are generated and correct when equal to the row's, or to what the tokenizer makes of it, but for
    whitespace at the ends. Choices are scored by likelihood; `answer` is the gold choice's text, or its index counted
    from 0.
    """

    settings_type = JsonlSettings
    settings: JsonlSettings

    @property
    def stop(self) -> tuple[str, ...]:
        return tuple(self.settings.stop)

    def rows(self, split: Split) -> Iterator[Row]:
        path = user_path(self.settings.train_file if split == "train" else self.settings.eval_file)
        rows = list(read_json_lines(path))
        completions, choices = ([where for where, row in rows if _kind(row) is kind] for kind in _KINDS)
        if completions and choices:
            raise HeftError(
                f"{path} mixes {len(completions):,} rows with prompt and completion (first {completions[0]}) and "
                f"{len(choices):,} with question, choices and answer (first {choices[0]}); give each kind its own file"
            )
        return iter(rows)

    def row_faults(self, row: dict) -> list[str]:
        kind = _kind(row)
        if kind is None or all(row.keys() >= fields.keys() for fields in _KINDS):
            keys = ", ".join(row) or "no keys"
            return [f"expected the keys prompt and completion, or question, choices and answer; got {keys}"]
        return field_faults(row, kind)

    def example(self, row: dict) -> Example:
        if "prompt" in row:
            return self._completion(row["prompt"], row["completion"])
        check_options(row["choices"], "choices", least=2)
        question, gold = row["question"].strip(), _gold(row)
        head, cloze = f"Question: {question}", question_cloze(question)
        return options_example(self.name, self.settings.format, head, cloze, row["choices"], gold)

    def _completion(self, prompt: str, completion: str) -> Example:
        """Whitespace between the two stays, as part of the completion; a space where there is none."""
        stem = prompt.rstrip()
        between = prompt[len(stem) :] + completion[: len(completion) - len(completion.lstrip())]
        answer = (between or " ") + completion.strip()
        return generation_example(self.name, stem, answer, completion.strip(), turn=_as_turn(completion))

    def prediction(self, text: str) -> str:
        return text.strip()


def _kind(row: dict) -> dict | None:
    """The fields of the kind that a row is meant to be, complete or not; `answer` alone decides nothing."""
    if "prompt" in row or "completion" in row:
        return _COMPLETION_FIELDS
    return _CHOICE_FIELDS if "question" in row or "choices" in row else None


def _as_turn(completion: str) -> str:
    """A completion on its own: indentation stays, blank lines and one single space do not."""
    text = completion.rstrip()
    indent, text = text[: len(text) - len(text.lstrip())], text.lstrip()
    indent = indent.rpartition("\n")[2]
    return text if indent == " " else indent + text


def _gold(row: dict) -> int:
    """The index of the answer, which is given as an index or as the text of one choice."""
    answer, choices = row["answer"], row["choices"]
    if isinstance(answer, str):
        if choices.count(answer) == 1:
            return choices.index(answer)
        raise HeftError(f"answer {show(answer)} must be the text of exactly one choice, or an index from 0")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        expected = f"answer must be an index from 0 to {len(choices) - 1} or the text of a choice"
        raise HeftError(f"{expected}; got {show(answer)}{quotes_hint(answer)}")
    texts = [choice.strip() for choice in choices]
    if str(answer) in texts and texts[answer] != str(answer):
        raise HeftError(
            f"answer {answer} is the index of {show(choices[answer])}, counted from 0, and the text of another"
            " choice; write the right choice's text, in quotes"
        )
    return answer
