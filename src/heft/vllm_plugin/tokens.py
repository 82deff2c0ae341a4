"""Which tokens of a request are edited, as ranges: what a pass edits, and what a block of the prefix cache holds.

No torch and no vLLM. The rule is `heft.edits.positions.Positions.edits`; here it is said in ranges, since a pass has
thousands of tokens and a few ranges.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from heft.edits.positions import Positions

PROMPT_LENGTH = "prompt_length"
"""Key of a request's extra arguments (`vllm_xargs`): how many of its tokens are the prompt, the others being an answer
that is scored."""


@dataclass(frozen=True)
class Kind:
    """Tokens that have one set of weights: those that `positions` gives to `group`."""

    positions: Positions
    group: str

    def ranges(self, prompt: int, start: int, end: int) -> list[tuple[int, int]]:
        """The edited ones of a sequence's tokens `start` to `end`, in order and apart.

        Args:
            prompt: tokens of the sequence's prompt.
        """
        found: list[tuple[int, int]] = []
        for begin, stop in self._spans(prompt, end):
            begin, stop = max(begin, start), min(stop, end)
            if begin >= stop:
                continue
            if found and found[-1][1] == begin:
                begin = found.pop()[0]
            found.append((begin, stop))
        return found

    def _spans(self, prompt: int, end: int) -> Iterator[tuple[int, int]]:
        rule = self.positions
        if rule.all_tokens:
            yield 0, end
            return
        if self.group in ("first", "shared"):
            yield 0, min(rule.first, prompt)
        if self.group in ("last", "shared"):
            yield max(rule.first, prompt - rule.last), prompt
            if rule.onward:
                yield prompt, end


def prompt_length(prompt: int, extra_args: dict | None) -> int:
    """Tokens of a request's prompt, as its edits count them: all that were sent, unless it says otherwise."""
    given = (extra_args or {}).get(PROMPT_LENGTH)
    return prompt if given is None else given


def fault_of_prompt_length(prompt: int, extra_args: dict | None) -> str | None:
    """What is wrong with a request's own `prompt_length`; None for nothing."""
    given = (extra_args or {}).get(PROMPT_LENGTH)
    if given is None or (type(given) is int and 1 <= given <= prompt):
        return None
    return f"vllm_xargs.{PROMPT_LENGTH} must be a number from 1 to the {prompt} tokens that were sent; got {given!r}"
