"""A tokenizer's chat template: the turns before an answer, what surrounds the answer, and today's date.

Templates may ask for the date (`strftime_now`). They get a fixed one, so that prompts do not depend on the day.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from types import SimpleNamespace
from unittest.mock import patch

from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from heft.errors import HeftError

Turns = Sequence[tuple[str, str]]
"""Turns of a chat: the role (system, user, assistant) and the content of each."""
REFERENCE_DATE = "2000-01-01"
"""The date with which prompts are fingerprinted, so that runs of different days still pair."""
_CLOCK = threading.RLock()
_QUESTION, _ANSWER = "heftquestion", "heftanswer"
_THINKING_TAG = re.compile(r"<(/?)\|?(?:think|thinking|thought|reason|reasoning|reflection)\|?>", re.IGNORECASE)


@dataclass(frozen=True)
class ChatTemplate:
    """How the chat template of a tokenizer is used.

    Attributes:
        tokenizer: whose template it is.
        args: what is passed to the template beside the messages, such as `{"enable_thinking": False}`.
        date: YYYY-MM-DD, passed as today's date; None for today.
    """

    tokenizer: PreTrainedTokenizerBase
    args: Mapping[str, object] = field(default_factory=dict)
    date: str | None = None

    @property
    def is_there(self) -> bool:
        """Whether the tokenizer has a template."""
        return self._template is not None

    def prompt(self, turns: str | Turns) -> str:
        """A prompt as a user's turn, or several turns (role, content), up to where the answer begins.

        Raises:
            HeftError: there is no template, it does not take an argument, or it fails.
        """
        if not self.is_there:
            named = ", or none named default" if getattr(self.tokenizer, "chat_template", None) else ""
            raise HeftError(
                f"task.chat_template is true, but this model's tokenizer has no chat template{named}; set it to false"
                " (heft init: --no-chat-template), or, where rows are chats, take a model that has one"
            )
        if self._unknown_args:
            raise HeftError(
                f"task.chat_template_args: the chat template of this model's tokenizer has no variable"
                f" {', '.join(map(repr, self._unknown_args))}; remove it, or use a name that is in the template"
            )
        try:
            return self._render(_messages(turns), add_generation_prompt=True)
        except Exception as error:  # a template is a program that came with the model, and may raise anything
            reason = str(error).strip().splitlines()[:1] or ["no message"]
            what = "a user's turn" if isinstance(turns, str) else f"the turns {', '.join(role for role, _ in turns)}"
            text = turns if isinstance(turns, str) else turns[-1][1]
            raise HeftError(
                f"the chat template of this model's tokenizer cannot wrap {what}: {type(error).__name__}:"
                f" {reason[0]}. Fix chat_template.jinja (or tokenizer_config.json) in a copy of the model, or set"
                f" task.chat_template to false; the prompt was {text[:80]!r}"
            ) from error

    def history(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Messages (`role`, `content`) as the template writes them, as lm-evaluation-harness asks for them.

        Without `add_generation_prompt` the last one stays open, for its text to be continued. Where the template takes
        no system message, these are left out.

        Raises:
            HeftError: the template is missing or at fault.
        """
        try:
            return self._render(list(messages), add_generation_prompt, not add_generation_prompt)
        except Exception as error:  # a template is a program that came with the model, and may raise anything
            rest = [message for message in messages if message["role"] != "system"]
            if len(rest) < len(messages):
                return self.history(rest, add_generation_prompt)
            roles = ", ".join(message["role"] for message in messages)
            reason = str(error).strip().splitlines()[:1] or ["no message"]
            raise HeftError(
                f"the chat template of this model's tokenizer cannot wrap the messages {roles}: {type(error).__name__}:"
                f" {reason[0]}. Evaluate without a chat template, or fix chat_template.jinja in a copy of the model"
            ) from error

    @property
    def lead(self) -> str:
        """Whitespace that the template writes between a prompt and its answer (Llama 2: a space); mostly none."""
        return self._around_answer[0]

    @cached_property
    def end(self) -> int | None:
        """The token that the template writes after an answer; None where it writes none."""
        ids = self.tokenizer(self._around_answer[1].lstrip(), add_special_tokens=False)["input_ids"]
        known = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        first = next((i for i, token in enumerate(ids) if token in known), None)
        return None if first is None or self.tokenizer.decode(ids[:first]).strip() else ids[first]

    @cached_property
    def uses_date(self) -> bool:
        """Whether prompts differ from day to day."""
        one, other = (replace(self, date=day).prompt(_QUESTION) for day in (REFERENCE_DATE, "1999-12-25"))
        return one != other

    @cached_property
    def opens_thinking(self) -> str | None:
        """The tag of a thinking block that a prompt ends within, such as `<think>`; None where it ends in none."""
        tags = list(_THINKING_TAG.finditer(self.prompt(_QUESTION).rpartition(_QUESTION)[2]))
        return tags[-1][0] if tags and not tags[-1][1] else None

    def takes(self, name: str) -> bool:
        """Whether the template uses a variable."""
        return re.search(rf"\b{re.escape(name)}\b", self._template or "") is not None

    @property
    def _template(self) -> str | None:
        """Its text; None where there is none, or several by names of which none is the default."""
        found = getattr(self.tokenizer, "chat_template", None)
        return (found.get("default") if isinstance(found, dict) else found) or None

    @cached_property
    def _unknown_args(self) -> list[str]:
        return [name for name in self.args if not self.takes(name)]

    @cached_property
    def _around_answer(self) -> tuple[str, str]:
        """The whitespace between a prompt and its answer, and what follows the answer."""
        turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
        try:
            before = self._render(turns[:1], add_generation_prompt=True)
            whole = self._render(turns, add_generation_prompt=False)
        except Exception:  # a template for one question only; `prompt` says what is wrong with others
            return "", ""
        start, found, behind = whole.rpartition(_ANSWER)
        lead = start.removeprefix(before) if found and start.startswith(before) else ""
        return (lead if lead.isspace() else ""), (behind if found else "")

    def _render(self, turns: list, add_generation_prompt: bool, continue_final_message: bool = False) -> str:
        with _today_is(self.date):
            return self.tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **self.args,
            )


def _messages(turns: str | Turns) -> list[dict]:
    turns = [("user", turns)] if isinstance(turns, str) else turns
    return [{"role": role, "content": content} for role, content in turns]


def today() -> str:
    """Today as YYYY-MM-DD."""
    return datetime.now().date().isoformat()


@contextmanager
def _today_is(day: str | None) -> Iterator[None]:
    """Set the clock that templates read, for one thread at a time: of `datetime` their `strftime_now` asks `now` only.

    None is the clock as it is, which no other thread may have set meanwhile.
    """
    with _CLOCK:
        if day is None:
            yield
            return
        clock = SimpleNamespace(now=lambda: datetime.fromisoformat(day))
        with patch.object(chat_template_utils, "datetime", clock):
            yield
