"""Prompts that all end with the same tokens, such as a chat template's start of the answer or `Answer:`.

Where they do, LoRA on a prompt's last N tokens and all later ones is PEFT's own aLoRA, which acts from the last place
of its N invocation tokens in a row on.
"""

from collections.abc import Iterable

from heft.data.encode import EncodedExample


def common_tail(rows: Iterable[EncodedExample], count: int) -> list[int] | None:
    """The last `count` tokens of every prompt; None where they differ, or an answer or a choice has them again."""
    tail: tuple[int, ...] | None = None
    for row in rows:
        tail = row.prompt[-count:] if tail is None else tail
        if len(tail) < count or not ends_with(row, tail):
            return None
    return None if tail is None else list(tail)


def ends_with(row: EncodedExample, tail: tuple[int, ...]) -> bool:
    """Whether a row's prompt ends with these tokens, and they are nowhere in what may follow it."""
    if row.prompt[-len(tail) :] != tail:
        return False
    return not any(_is_within(tail, (*tail, *ids)[1:]) for ids in (row.answer, *row.choices))


def _is_within(part: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))
