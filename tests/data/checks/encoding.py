"""Rows for the checks: tokenizers with a fault of their own, and examples in token ids."""

from tokenizers import normalizers

import tiny
from heft.data.encode import EncodedExample, Encoder
from heft.tasks.example import choice_example, generation_example


def tokenizer_that_drops(text: str):
    """The byte tokenizer, without tokens for `text`."""
    tokenizer = tiny.byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(text, "")
    return tokenizer


def tokenizer_that_pads_with_the_end():
    """The byte tokenizer, whose EOS token pads."""
    tokenizer = tiny.byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class CuttingTokenizer:
    """The byte tokenizer, which gives `most` tokens at most."""

    def __init__(self, most: int):
        self._inner, self._most = tiny.byte_tokenizer(), most

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def __call__(self, text, **options) -> dict:
        ids = self._inner(text, **options)["input_ids"]
        return {"input_ids": [each[: self._most] for each in ids] if isinstance(text, list) else ids[: self._most]}


def generated(prompt: str = "Q:", answer: str = " yes", tokenizer=None) -> EncodedExample:
    """A row whose answer is generated."""
    return encoded(generation_example("t", prompt, answer, answer.strip()), tokenizer)


def chosen(prompt: str = "Q:", options: tuple[str, ...] = ("yes", "no"), gold: int = 0, tokenizer=None):
    """A row with choices."""
    return encoded(choice_example("t", prompt, options, gold), tokenizer)


def encoded(example, tokenizer=None) -> EncodedExample:
    return Encoder(tokenizer or tiny.byte_tokenizer(), 256)([example])[0]
