"""One question as text, and how examples with choices and with generated answers are made."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from heft.errors import HeftError
from heft.text.folding import plain


@dataclass(frozen=True)
class Example:
    """One question as text, before any tokenizer or chat template.

    Raises:
        HeftError: a field is not as described here.
    """

    id: str
    """16 hex digits from the content, so the same on every machine; repeats within a split get -2, -3, …"""
    prompt: str
    """Not empty, no whitespace at the end."""
    choices: tuple[str, ...]
    """Each continues the prompt and begins with whitespace; empty where the answer is generated."""
    gold: int | None
    """Index into choices; None where the answer is generated, or not known."""
    answer: str
    """What is trained on after the prompt, beginning with whitespace; choices[gold] where there are choices. Empty: the
    answer is not known."""
    group: str | None = None
    """Equal for examples that share a text, for clustered statistics; None where nothing is shared."""
    target: str | None = None
    """The reference final answer where answers are generated; None where it is not known."""
    question: str | None = None
    """The question, where the prompt has more, such as the options; None where the prompt is the question."""
    options: tuple[str, ...] | None = None
    """What the choices stand for, where they are names such as letters; None where they are the options themselves."""
    turn: str | None = None
    """The answer as a chat turn, where whitespace at its beginning is part of it; None: the answer without any."""
    turns: tuple[tuple[str, str], ...] | None = None
    """What a chat has before the answer, (role, content) each; None: the prompt, as a user's turn."""
    place: str | None = field(default=None, compare=False)
    """Where its row stands, such as `tickets.csv:12`; None where it is of no file."""

    def __post_init__(self) -> None:
        faults = []
        if not self.prompt or self.prompt[-1].isspace():
            faults.append(f"the prompt must be text that ends without whitespace; it ends in {self.prompt[-20:]!r}")
        for text in (*self.choices, self.answer) if self.answered else self.choices:
            if not text[:1].isspace() or not text.strip():
                faults.append(f"a choice or answer must begin with whitespace and not be empty; got {text[:40]!r}")
        if not self.answered:
            if self.gold is not None or self.target is not None:
                faults.append("an example without an answer has neither gold nor target")
        elif self.choices and (self.gold not in range(len(self.choices)) or self.answer != self.choices[self.gold]):
            faults.append(
                f"gold must be an index into {len(self.choices)} choices and answer that choice; got {self.gold}"
            )
        elif not self.choices and (self.gold is not None or self.target is None):
            faults.append("an example without choices needs a target and has no gold")
        if self.options is not None and len(self.options) != len(self.choices):
            faults.append(f"there must be as many options as choices; got {len(self.options)} and {len(self.choices)}")
        if faults:
            raise HeftError("; ".join(faults))

    @property
    def answered(self) -> bool:
        """Whether the right answer is known."""
        return bool(self.answer)

    @property
    def labels(self) -> tuple[str, ...]:
        """What the choices stand for, in words; empty where the answer is generated."""
        return tuple(text.strip() for text in (self.choices if self.options is None else self.options))

    @property
    def asked(self) -> tuple[str, tuple[str, ...], str]:
        """The question, its options and the right one, or the answer: what the example says in whichever format."""
        options = self.choices if self.options is None else self.options
        question = self.prompt if self.question is None else self.question
        return question, options, self.answer if self.gold is None else options[self.gold]

    @property
    def asks(self) -> tuple[str, ...]:
        """The question and its options, in any order: equal for examples that ask the same."""
        question, options, _ = self.asked
        return plain(question), *sorted(map(plain, options))


def content_hash(*parts: object) -> str:
    """16 hex digits of the SHA-256 of the parts, written as JSON."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8")).hexdigest()[:16]


def choice_example(
    task_name: str,
    prompt: str,
    options: Sequence[str],
    gold: int | None,
    group: str | None = None,
    question: str | None = None,
    named: Sequence[str] | None = None,
) -> Example:
    """An example scored by the likelihood of its choices; each option is continued after one space.

    `gold` is the index of the right one, None where that is not known. `group` is the shared text itself, whose hash
    is stored; `question` and `named` are an `Example`'s `question` and `options`, for a prompt that lists them and
    options that are their names.
    """
    choices = tuple(f" {option.strip()}" for option in options)
    return Example(
        id=content_hash(task_name, prompt, choices, gold),
        prompt=prompt,
        choices=choices,
        gold=gold,
        answer="" if gold is None else choices[gold],
        group=None if group is None else content_hash(group),
        question=question,
        options=None if named is None else tuple(named),
    )


def generation_example(
    task_name: str, prompt: str, answer: str = "", target: str | None = None, turn: str | None = None
) -> Example:
    """An example whose answer is generated: `answer` is trained on (in a chat, `turn`), `target` is checked against.

    Without them the answer is not known.
    """
    return Example(
        id=content_hash(task_name, prompt, (), answer),
        prompt=prompt,
        choices=(),
        gold=None,
        answer=answer,
        target=target,
        turn=turn,
    )


def without_answer(example: Example) -> Example:
    """The same example with its answer not known."""
    return replace(example, gold=None, answer="", target=None, turn=None)
