"""A text as it grows token by token: what of it can be shown, whether a stop string has come, and what of it each
token is."""

import codecs
import re
from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from heft.models.endings import no_text, text_of, until

_HALF_A_CHARACTER = "\ufffd"
_BYTES = {char: byte for byte, char in bytes_to_unicode().items()}
"""As byte-level tokenizers write bytes."""


class GrowingText:
    """The text of generated tokens.

    Its end is what `heft generate` would give for the same tokens: up to the first end token or stop string. Before the
    end, what may yet become a stop string or another character is held back. Where it `follows` its prompt, it has the
    space between them, which decoding leaves out before a text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], stop: Sequence[str], follows: bool = False
    ):
        self._tokenizer, self._ends, self._follows = tokenizer, ends, follows
        self._stop = tuple(text for text in stop if text)
        self._ids: list[int] = []
        self._shown = ""

    def add(self, token: int) -> None:
        """One more token."""
        self._ids.append(token)

    @property
    def has_stopped(self) -> bool:
        """Whether a stop string is in the text."""
        return bool(self._stop) and until(whole := self._whole(), self._stop) != whole

    def take(self, is_last: bool = False) -> str:
        """What can be shown and was not yet; with `is_last` all that is left."""
        whole = self._whole()
        text = until(whole, self._stop)
        if not is_last and text == whole:
            text = text.rstrip(_HALF_A_CHARACTER)
            text = text[: len(text) - self._may_be_a_stop(text)]
        if not text.startswith(self._shown):  # a tokenizer that tidies earlier text: nothing can be taken back
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new

    def _whole(self) -> str:
        text = text_of(self._tokenizer, self._ids, self._ends)
        return space_left_out(self._tokenizer, self._ids) + text if self._follows else text

    def _may_be_a_stop(self, text: str) -> int:
        """How many of the last characters begin a stop string."""
        longest = max((len(each) - 1 for each in self._stop), default=0)
        for count in range(min(longest, len(text)), 0, -1):
            if any(each.startswith(text[-count:]) for each in self._stop):
                return count
        return 0


class Spelling:
    """What each token of a text adds to it, in their order.

    A token that is decoded alone may lose the space before its word, and has half a character as U+FFFD.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, follows: bool = False):
        self._tokenizer, self._decoder = tokenizer, codecs.getincrementaldecoder("utf-8")("replace")
        self._count, self._begun = 0, follows

    def of(self, token: int) -> tuple[str, bytes | None]:
        """A token here, as text and as bytes; None where it is no text, such as BOS."""
        alone, own = _of_token(self._tokenizer, token)
        if own is None:
            return alone, None
        if not self._begun and space_left_out(self._tokenizer, [token]):
            own = own[1:]
        return own.decode(errors="replace"), own

    def add(self, token: int) -> int:
        """Go past a token; the character of the text at which it begins."""
        offset, (_, own) = self._count, self.of(token)
        if own is None:
            return offset
        begun_character, _ = self._decoder.getstate()
        text = self._decoder.decode(own)
        self._begun, self._count = True, offset + len(text)
        return offset + (bool(begun_character) and text.startswith(_HALF_A_CHARACTER))  # of which this is no part


def space_left_out(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The space with which tokens begin behind others, where decoding leaves it out before a text of them."""
    found = (_of_token(tokenizer, token) for token in tokens)
    alone, own = next((each for each in found if each[1] is not None), ("", b""))
    return " " if own == b" " + alone.encode() else ""


@lru_cache(maxsize=1 << 17)
def _of_token(tokenizer: PreTrainedTokenizerBase, token: int) -> tuple[str, bytes | None]:
    """The text of a token alone, and the bytes that it adds behind another one; None where it is no text."""
    alone, twice = tokenizer.decode([token]), tokenizer.decode([token, token])
    if token in no_text(tokenizer):
        return alone, None
    text = twice[len(alone) :] if twice.startswith(alone) else alone
    if _HALF_A_CHARACTER in text:
        piece = tokenizer.convert_ids_to_tokens(token)
        byte = re.fullmatch("<0x([0-9A-Fa-f]{2})>", piece)
        if byte is not None:
            return alone, bytes.fromhex(byte[1])
        if all(char in _BYTES for char in piece):
            return alone, bytes(_BYTES[char] for char in piece)
    return alone, text.encode()
