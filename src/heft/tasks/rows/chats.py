"""Chats as turns: OpenAI's shape (role, content), ShareGPT's (from, value), and prompts and completions of messages."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from heft.errors import HeftError
from heft.settings.words import show
from heft.storage.reading import parse_json
from heft.tasks.example import Example, content_hash, generation_example

_ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_WORDS = {"system": "System", "user": "User", "assistant": "Assistant"}
_TEMPLATE_ARGS = "chat_template_kwargs"
"""Column beside a chat (of TRL) that says what its chat template is handed."""
_TOOLS = ("tools", "functions")
"""Columns beside a chat that say which tools there are."""
_CALLS = ("tool_calls", "function_call")
"""Keys of a message that hold calls of tools."""
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message that hold what was thought before its content."""


class Turn(NamedTuple):
    """A turn of a chat; `weight` is 0 where the assistant's is not to be trained on, as OpenAI's files say it."""

    role: str
    content: str
    weight: int = 1


def require_no_tools(row: Mapping[str, Any]) -> None:
    """Require that a chat's row names no tools, which a template would write into the prompt.

    Raises:
        HeftError: it does.
    """
    for name in _TOOLS:
        if row.get(name) and str(row[name]).strip() not in ("[]", "{}", "null"):
            raise HeftError(
                f"{name}: calls of tools are not trained on, so the model is not told of them; remove such chats, or"
                " the column"
            )


def require_args_of_task(row: Mapping[str, Any], args: Mapping[str, Any]) -> None:
    """Require that a chat's row wants nothing of the chat template that all rows do not get.

    Raises:
        HeftError: its `chat_template_kwargs` has something that is not in the task's `chat_template_args`.
    """
    wanted = row.get(_TEMPLATE_ARGS)
    wanted = wanted if isinstance(wanted, Mapping) else {} if wanted in (None, "", "{}") else {_TEMPLATE_ARGS: wanted}
    lacking = {name: value for name, value in wanted.items() if value not in (None, "", []) and args.get(name) != value}
    if lacking:
        raise HeftError(
            f"{_TEMPLATE_ARGS} has {', '.join(f'{name}: {show(value)}' for name, value in lacking.items())}, and the"
            " chat template is handed the same for all rows; set task.chat_template_args to that, or remove it"
        )


def system_of(row: Mapping[str, Any]) -> str | None:
    """The system prompt in a row's own column; None where there is none, or an empty one.

    Raises:
        HeftError: it is no text.
    """
    text = row.get("system")
    if text is not None and not isinstance(text, str):
        raise HeftError(f"system must be text; got {show(text)}")
    return text if text is not None and text.strip() else None


def exchange_of(pair: Any) -> list[tuple[str, str]]:
    """The two turns of an entry of Alpaca's `history`.

    Raises:
        HeftError: it is no pair of texts.
    """
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise HeftError("history must be a list of pairs, a question and its answer each")
    return [("user", pair[0]), ("assistant", pair[1])]


def turns_of(value: Any, name: str) -> list[Turn]:
    """The turns of a chat; a system prompt that is empty is none.

    Args:
        value: a list of messages, or the same as JSON text, as cells of CSV have it.
        name: of the column, for messages.

    Raises:
        HeftError: it is no chat: something is missing, of another type, a tool's, or no text; all faults together.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value.encode("utf-8"), finite=False)
        except ValueError as error:
            raise HeftError(f"{name} must be a list of messages; got the text {show(value)}, {error}") from None
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
    return _checked([turn for turn in turns if turn.content], name)


def chat_examples(task_name: str, turns: Sequence[tuple], system: str | None, train_on: str) -> list[Example]:
    """An example for the last turn of the assistant, or for each of them, with the turns before it.

    Those of one chat share a group, as they share text. What follows the last of these turns is left out.

    Args:
        task_name: of the examples' task.
        turns: `Turn`s, or (role, content) each.
        system: prompt of the system, where the chat has none.
        train_on: "last" or "all"; a turn of weight 0 is none of them.

    Raises:
        HeftError: the assistant says nothing.
    """
    said = [Turn(*turn) for turn in turns]
    if system is not None and said[0].role != "system":
        said = [Turn("system", system), *said]
    first = next((i for i, turn in enumerate(said) if turn.role == "user"), len(said))
    places = [i for i, turn in enumerate(said) if turn.role == "assistant" and i > first and turn.weight]
    if not places:
        raise HeftError("the assistant says nothing behind a turn of the user, so there is no answer to train on")
    pairs = [(turn.role, turn.content) for turn in said]
    group = content_hash([list(pair) for pair in pairs]) if train_on == "all" and len(places) > 1 else None
    chosen = places if train_on == "all" else places[-1:]
    return [_example(task_name, pairs[:place], pairs[place][1], group) for place in chosen]


def as_turn(completion: str) -> str:
    """An answer on its own: indentation stays, blank lines and one single space do not."""
    text = completion.rstrip()
    indent, text = text[: len(text) - len(text.lstrip())], text.lstrip()
    indent = indent.rpartition("\n")[2]
    return text if indent == " " else indent + text


def _example(task_name: str, before: Sequence[tuple[str, str]], answer: str, group: str | None) -> Example:
    told = [turn for turn in before if turn[0] != "system"]
    prompt = told[0][1] if len(before) == 1 else "\n".join(f"{_WORDS[role]}: {text}" for role, text in before)
    text = answer.strip()
    example = generation_example(task_name, prompt.rstrip(), f" {text}", text, turn=as_turn(answer))
    return Example(**{**vars(example), "turns": tuple(before), "group": group})


def _turn(message: Any) -> Turn:
    """One message as a turn; a ValueError says what is wrong with it."""
    if not isinstance(message, dict):
        raise ValueError(f"expected a message with role and content; got {show(message)}")
    role = _either(message, "role", "from")
    if role in ("tool", "function", "observation", "function_call", "ipython") or any(map(message.get, _CALLS)):
        raise ValueError("calls of tools are not trained on; remove such chats")
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise ValueError(f"role must be system, user or assistant; got {show(role)}")
    for name in _THOUGHTS:
        if message.get(name):
            raise ValueError(
                f"{name} is not trained on; write it into content, as the model's template does (such as"
                " <think>…</think>), or remove it"
            )
    if (weight := message.get("weight")) not in (None, 0, 1):
        raise ValueError(f"weight must be 0 or 1; got {show(weight)}")
    role, content = _ROLES[role.lower()], _either(message, "content", "value")
    return Turn(role, _content(content, may_be_empty=role == "system"), 1 if weight is None else int(weight))


def _either(message: Mapping[str, Any], name: str, other: str) -> Any:
    """What stands under one of two names; tables have null for the one that a row lacks."""
    found = message.get(name)
    return message.get(other) if found is None else found


def _content(content: Any, may_be_empty: bool) -> str:
    """The text of a message, whose parts, where it has such, are joined."""
    if isinstance(content, list):
        kinds = [part.get("type") if isinstance(part, dict) else None for part in content]
        other = [kind for kind in kinds if kind != "text"]
        if other:
            what = "images" if any("image" in str(kind) for kind in other) else f"parts of the type {show(other[0])}"
            raise ValueError(f"{what} cannot be read, heft trains on text; remove such chats")
        content = "".join(str(part.get("text") or "") for part in content)
    if may_be_empty and (content is None or (isinstance(content, str) and not content.strip())):
        return ""
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"content must be text that is not empty; got {show(content)}")
    return content


def _checked(turns: list[Turn], name: str) -> list[Turn]:
    late = [number for number, turn in enumerate(turns) if turn.role == "system" and number]
    if late:
        raise HeftError(f"{name}[{late[0]}]: a system prompt stands at the beginning only")
    if all(turn.role == "system" for turn in turns):
        raise HeftError(f"{name} has no turn of the user")
    return turns
