"""Which tokens an adapter edits: the one rule, and whatever others ask of it. No torch.

A new syntax is read in `parse_positions`, answered by `Positions`, and documented in heft.edits.settings.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

GROUPS = ("shared", "first", "last")
"""Edited tokens that have one set of weights: all of them, or the first and the last ones apart (`tied: false`)."""


@dataclass(frozen=True)
class Positions:
    """Which tokens are edited.

    `first` and `last` count tokens from the start and from the end of the prompt; with `onward` the last ones go on
    behind it, through the answer and whatever is generated; `all_tokens` means prompt, answer and generated tokens
    alike. Padding is never edited. In a prompt shorter than both counts together the first positions are taken first,
    so no token is edited twice.
    """

    first: int = 0
    last: int = 0
    all_tokens: bool = False
    onward: bool = False

    def edits(self, index: Any, prompt: Any, group: str) -> Any:
        """Whether a token is edited with a group's weights.

        Args:
            index: number of the token in its sequence, from 0; −1 for padding. An integer or an array.
            prompt: tokens of the sequence's prompt; an integer, or an array that broadcasts with `index`.
            group: one of `GROUPS`; "shared" stands for all edited tokens.
        """
        if self.all_tokens:
            return index >= 0
        in_first = (index >= 0) & (index < self.first) & (index < prompt)
        in_last = (index >= self.first) & (index >= prompt - self.last) & (index < prompt)
        if self.onward:
            in_last = in_last | ((index >= 0) & (index >= prompt))
        return {"first": in_first, "last": in_last, "shared": in_first | in_last}[group]

    @lru_cache(maxsize=1 << 16)  # noqa: B019 - positions are few and small
    def count(self, prompt: int, start: int, end: int, group: str) -> int:
        """How many of a sequence's tokens `start` to `end` are edited with a group's weights."""
        return sum(self.edits(index, prompt, group) for index in range(start, end))

    def groups(self, tied: bool) -> tuple[str, ...]:
        """The sets of weights that an adapter has."""
        if self.all_tokens or (tied and self.first and self.last):
            return ("shared",)
        return tuple(group for group, count in (("first", self.first), ("last", self.last)) if count)

    def shortest_prompt(self) -> int:
        """Tokens of the shortest prompt in which every position exists."""
        return self.first + self.last

    def protected_head(self) -> int:
        """How many tokens at the start of a prompt have to stay where prompts are cut."""
        return self.first

    def protected_tail(self) -> int:
        """How many tokens before the end of a prompt are edited because it ends there; they have to stay, too."""
        return self.last

    def reach_back(self) -> int | None:
        """How far before a prompt's end the first edited token is at most; None where it may be the prompt's first.

        All before that token has the frozen model's activations, whatever the edits are.
        """
        return None if self.all_tokens or self.first else self.last

    def in_words(self) -> str:
        """`the first 7 and the last 7 of the prompt (f7+l7)`."""
        if self.all_tokens:
            return "all tokens, those of the answer too"
        ends = [f"the {word} {count}" for word, count in (("first", self.first), ("last", self.last)) if count]
        later = " and all later tokens" if self.onward else ""
        return f"{' and '.join(ends)} of the prompt{later} ({self})"

    def __str__(self) -> str:
        """As it is written in a recipe."""
        if self.all_tokens:
            return "all"
        ends = "+".join(f"{letter}{count}" for letter, count in (("f", self.first), ("l", self.last)) if count)
        return f"{ends}+" if self.onward else ends


def parse_positions(text: str) -> Positions:
    """Read `all`, `fN`, `lN`, `fN+lN`, `lN+` or `fN+lN+`.

    Raises:
        ValueError: the text is none of these, or a count is 0.
    """
    if text == "all":
        return Positions(all_tokens=True)
    pattern = r"(?:f([1-9]\d*))?(?:(?<=\d)\+(?=l))?(?:l([1-9]\d*)(\+)?)?"
    match = re.fullmatch(pattern, text) if isinstance(text, str) else None
    apart = match is not None and ("+l" in text) == (match[1] is not None and match[2] is not None)
    if not text or not apart:
        expected = "'all', 'fN', 'lN', 'lN+', 'fN+lN' or 'fN+lN+' with N at least 1, such as 'f7+l7'"
        raise ValueError(f"positions must be {expected}; got {text!r}")
    return Positions(first=int(match[1] or 0), last=int(match[2] or 0), onward=match[3] is not None)


def parse_branch_positions(text: str) -> Positions:
    """Read the positions of a weight update: `all` or `lN+`; `lN` is read as `lN+`.

    An update that ended with the prompt would leave the answer's tokens to the base.

    Raises:
        ValueError: the text is none of these.
    """
    try:
        positions = parse_positions(text)
    except ValueError:
        positions = Positions(first=1)
    if positions.first:
        raise ValueError(
            "positions of LoRA must be 'all' or 'lN+' with N at least 1, such as 'l8+': the last N tokens of the prompt"
            f" and all later ones; got {text!r}"
        )
    return positions if positions.all_tokens else Positions(last=positions.last, onward=True)


def longest_tail(several: Iterable[Positions]) -> int:
    """The largest `protected_tail`; 0 where there is none."""
    return max((positions.protected_tail() for positions in several), default=0)
