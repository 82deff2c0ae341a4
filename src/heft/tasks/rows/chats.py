"""Chats as turns: OpenAI's shape (role, content), ShareGPT's (from, value), and prompts and completions of messages."""

import json
from collections.abc import Sequence
from typing import Any

from heft.errors import HeftError
from heft.settings.words import show
from heft.tasks.example import Example, content_hash, generation_example

Turn = tuple[str, str]
_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_WORDS = {"system": "System", "user": "User", "assistant": "Assistant"}


def turns_of(value: Any, name: str) -> list[Turn]:
    """The turns of a chat, (role, content) each.

    Args:
        value: a list of messages, or the same as JSON text, as cells of CSV have it.
        name: of the column, for messages.

    Raises:
        HeftError: it is no chat: something is missing, of another type, a tool's, or no text; all faults together.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise HeftError(f"{name} must be a list of messages; got the text {show(value)}") from None
    if not isinstance(value, list) or not value:
        raise HeftError(f"{name} must be a list of messages, at least one; got {show(value)}")
    turns, faults = [], []
    for number, message in enumerate(value):
        try:
            turns.append(_turn(message))
        except ValueError as error:
            faults.append(f"{name}[{number}]: {error}")
    if faults:
        raise HeftError("; ".join(faults))
    return _checked(turns, name)


def chat_examples(task_name: str, turns: Sequence[Turn], system: str | None, train_on: str) -> list[Example]:
    """An example for the last turn of the assistant, or for each of them, with the turns before it.

    Those of one chat share a group, as they share text. What follows the last turn of the assistant is left out.

    Raises:
        HeftError: the assistant says nothing.
    """
    if system is not None and turns[0][0] != "system":
        turns = [("system", system), *turns]
    places = [i for i, (role, _) in enumerate(turns) if role == "assistant" and any(r == "user" for r, _ in turns[:i])]
    if not places:
        raise HeftError("the assistant says nothing behind a turn of the user, so there is no answer to train on")
    group = content_hash([list(turn) for turn in turns]) if train_on == "all" and len(places) > 1 else None
    chosen = places if train_on == "all" else places[-1:]
    return [_example(task_name, turns[:place], turns[place][1], group) for place in chosen]


def _example(task_name: str, before: Sequence[Turn], answer: str, group: str | None) -> Example:
    told = [turn for turn in before if turn[0] != "system"]
    prompt = told[0][1] if len(before) == 1 else "\n".join(f"{_WORDS[role]}: {text}" for role, text in before)
    answer = answer.rstrip()
    example = generation_example(task_name, prompt.rstrip(), f" {answer.strip()}", answer.strip(), turn=answer)
    return Example(**{**vars(example), "turns": tuple(before), "group": group})


def _turn(message: Any) -> Turn:
    """The role and the content of one message; a ValueError says what is wrong with it."""
    if not isinstance(message, dict):
        raise ValueError(f"expected a message with role and content; got {show(message)}")
    role = message.get("role", message.get("from"))
    if role in ("tool", "function", "observation", "function_call", "ipython") or message.get("tool_calls"):
        raise ValueError("calls of tools are not trained on; remove such chats")
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise ValueError(f"role must be system, user or assistant; got {show(role)}")
    content = message.get("content", message.get("value"))
    return _ROLES[role.lower()], _content(content)


def _content(content: Any) -> str:
    """The text of a message, whose parts, where it has such, are joined."""
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
        other = [kind for kind in kinds if kind != "text"]
        if other:
            what = "images" if any("image" in str(kind) for kind in other) else f"parts of the type {show(other[0])}"
            raise ValueError(f"{what} cannot be read, heft trains on text; remove such chats")
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"content must be text that is not empty; got {show(content)}")
    return content


def _checked(turns: list[Turn], name: str) -> list[Turn]:
    late = [number for number, (role, _) in enumerate(turns) if role == "system" and number]
    if late:
        raise HeftError(f"{name}[{late[0]}]: a system prompt stands at the beginning only")
    if all(role == "system" for role, _ in turns):
        raise HeftError(f"{name} has no turn of the user")
    return turns
