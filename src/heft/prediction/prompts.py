"""Prompts that a person typed or has in a file, and a model's answers to them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.data.encode import Encoder
from heft.data.padding import padding_matters
from heft.errors import HeftError
from heft.evaluation.evaluator import answer_examples
from heft.evaluation.generation import Sampling, generate_texts
from heft.models.limits import beyond_positions, limits_of, require_room
from heft.prediction.predict import prediction_of
from heft.prediction.prediction import Prediction
from heft.recipe.recipe import EvaluationSettings
from heft.runtime.reporter import Reporter
from heft.storage.reading import is_file
from heft.tasks import Task
from heft.tasks.example import Example, generation_example
from heft.tasks.loading import require_all_or_no_choices
from heft.tasks.table import faults_by_cause, read_table
from heft.tasks.table.files import is_data_file, read_file, utf8
from heft.text.command import command
from heft.text.listing import listed

NEW_TOKENS = 64
"""Generated at most, where neither the task nor a person says."""


@dataclass(frozen=True)
class Speaking:
    """A model that answers prompts.

    Attributes:
        model, tokenizer: what answers.
        encode: how prompts are wrapped.
        task: the one that the model was trained on; None where that is not known.
        evaluation: how choices are scored.
        max_new_tokens: generated at most; None for the task's own.
        sampling: how tokens are drawn; None for the likeliest.
        warn: told, in words, where a text may be longer than the model was made for.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    encode: Encoder
    task: Task | None
    evaluation: EvaluationSettings
    max_new_tokens: int | None = None
    sampling: Sampling | None = None
    warn: Callable[[str], None] = lambda text: None

    def answers(self, examples: Sequence[Example]) -> list[Prediction]:
        """The answer to each, in order: a label where it has choices, else a text.

        Raises:
            HeftError: a prompt is too long for the model, or the model computes NaN or infinity.
        """
        if examples[0].choices:
            encoded = self.encode(examples)
            self._require_room((row.prompt, max(map(len, row.choices))) for row in encoded)
            found = answer_examples(
                self.model, self.tokenizer, self.task, encoded, self.evaluation, Reporter(), "prompts"
            )
            return [prediction_of(self.task, each, answer) for each, answer in zip(encoded, found, strict=True)]
        texts = self._texts([row.prompt for row in self.encode(examples)])
        return [Prediction(text, text=text) for text in texts]

    def reply(self, turns: Sequence[tuple[str, str]]) -> str:
        """The next turn of a conversation, of roles and contents so far; raises as `answers` does."""
        return self._texts([self.encode.prompt(turns)])[0]

    def _require_room(self, texts: Iterable[tuple[Sequence[int], int]]) -> None:
        """Require that the model can compute prompts with so many tokens behind each; warn if it was made for less."""
        limits = limits_of(self.model)
        for prompt, more in texts:
            require_room(limits, prompt, more)
            if beyond := beyond_positions(limits, prompt, more):
                self.warn(beyond)

    def _texts(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        most = self.max_new_tokens or (self.task and self.task.max_new_tokens) or NEW_TOKENS
        self._require_room((ids, most) for ids in prompts)
        longest = max(map(len, prompts)) + most
        alone = len(prompts) > 1 and padding_matters(self.model, self.tokenizer.pad_token_id, longest)
        return generate_texts(
            self.model,
            self.tokenizer,
            prompts,
            batch_size=1 if alone else self.evaluation.batch_size,
            max_new_tokens=most,
            stop=() if self.task is None else self.task.stop,
            answer_end=self.encode.answer_end,
            sampling=self.sampling,
        )


def typed(prompts: Iterable[str], task: Task | None, as_text: bool = False) -> list[Example]:
    """Prompts as examples; with the task's choices, where all its rows have the same and a label is wanted.

    Raises:
        HeftError: a prompt is empty.
    """
    examples = []
    for text in prompts:
        if not text.strip():
            raise HeftError("the prompt is empty; give some text")
        plain = as_text or task is None
        examples.append(generation_example("prompt", text.rstrip()) if plain else task.prompted(text))
    return examples


def refuse_file_names(prompts: Iterable[str], run: object) -> None:
    """Refuse prompts that are names of files, which a person meant to be read.

    Raises:
        HeftError: one is.
    """
    for text in prompts:
        if is_file(Path(text)):
            raise HeftError(
                f"{text!r} is a file, and a prompt was expected: give --file {quote(text)} for the prompts in it, or"
                f" `{command('predict', run, text)}` for a table of answers"
            )
        if (is_data_file(text) or text.endswith(".txt")) and not any(map(str.isspace, text)):
            raise HeftError(
                f"{text!r} looks like the name of a file, and there is none of that name here; a prompt was expected"
            )


def prompts_in(file: Path, task: Task | None, as_text: bool = False, encoding: str | None = None) -> list[Example]:
    """The prompts of a file: each line of a text, or each row of a table.

    A row is asked as the task asks its rows, where it has the task's fields; else it has a column `prompt`.

    Raises:
        HeftError: the file cannot be read, has no prompts, or rows have neither.
    """
    if not is_data_file(file.name):
        if not is_file(file):
            raise HeftError(f"--file {file}: there is no such file")
        return typed(_lines(file, encoding), task, as_text)
    rows = read_table(file, encoding=encoding)
    if task is not None and not task.question_faults(rows[0][1]):
        return _asked(rows, task, as_text)
    if "prompt" not in rows[0][1]:
        columns, fields = listed(list(map(str, rows[0][1]))), ""
        if task is not None:
            fields = f", or those that {task.name} asks with ({'; '.join(task.question_faults({}))})"
        raise HeftError(f"{file} has the columns {columns}; expected a column prompt{fields}")
    texts = ["" if row.get("prompt") is None else str(row["prompt"]) for _, row in rows]
    faults = [(place, "has no prompt") for (place, _), text in zip(rows, texts, strict=True) if not text.strip()]
    if faults:
        raise faults_by_cause(f"{len(faults):,} of {len(rows):,} rows cannot be asked:", faults)
    return typed(texts, task, as_text)


def _asked(rows: Sequence[tuple[str, dict]], task: Task, as_text: bool) -> list[Example]:
    examples, faults = [], []
    for place, row in rows:
        try:
            reasons = task.question_faults(row)
            example = None if reasons else task.question(row)
        except HeftError as error:
            reasons = [str(error)]
        if reasons:
            faults.append((place, "; ".join(reasons)))
        else:
            examples.append(generation_example("prompt", example.prompt) if as_text else example)
    if faults:
        raise faults_by_cause(f"{len(faults):,} of {len(rows):,} rows cannot be asked:", faults)
    require_all_or_no_choices(zip((place for place, _ in rows), examples, strict=True))
    return examples


def _lines(file: Path, encoding: str | None) -> list[str]:
    lines = [line.strip() for line in utf8(file, read_file(file), encoding).decode("utf-8").split("\n")]
    found = [line for line in lines if line]
    if not found:
        raise HeftError(f"{file} has no prompts; expected one a line")
    return found
