"""Whether a generated text is the right answer, as far as the model's tokens can write it."""

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from heft.data.encode import EncodedExample
from heft.models.endings import text_of, until
from heft.tasks.base import Task


def is_right(task: Task, encoded: EncodedExample, text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text answers an example.

    A tokenizer may give a text back as another one (composed accents, NFC; spaces). Then the model cannot write the
    reference, and the reference as the tokenizer gives it back counts too.
    """
    if task.is_correct(encoded.example, text):
        return True
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in encoded.answer[:-1]:
        return False  # the tokens lack a part of it
    target = task.prediction(written(encoded, tokenizer))
    return bool(target) and task.is_correct(replace(encoded.example, target=target), text)


def can_be_right(task: Task, encoded: EncodedExample, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the very tokens of a reference answer would count as right."""
    return is_right(task, encoded, written(encoded, tokenizer, task.stop), tokenizer)


def comes_back(task: Task, encoded: EncodedExample, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokens of a reference answer give back a text that counts as right as it stands."""
    return task.is_correct(encoded.example, written(encoded, tokenizer, task.stop))


def written(encoded: EncodedExample, tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...] = ()) -> str:
    """The text that comes of a model that writes the tokens of a reference answer."""
    return until(text_of(tokenizer, encoded.answer, encoded.answer[-1:]), stop)
