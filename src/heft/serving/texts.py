"""A text as it grows token by token: what of it can be shown, and whether a stop string has come."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from heft.models.endings import text_of, until

_HALF_A_CHARACTER = "\ufffd"


class GrowingText:
    """The text of generated tokens.

    Its end is what `heft generate` would give for the same tokens: up to the first end token or stop string. Before the
    end, what may yet become a stop string or another character is held back.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Sequence[int], stop: Sequence[str]):
        self._tokenizer, self._ends = tokenizer, ends
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
        return text_of(self._tokenizer, self._ids, self._ends)

    def _may_be_a_stop(self, text: str) -> int:
        """How many of the last characters begin a stop string."""
        longest = max((len(each) - 1 for each in self._stop), default=0)
        for count in range(min(longest, len(text)), 0, -1):
            if any(each.startswith(text[-count:]) for each in self._stop):
                return count
        return 0
