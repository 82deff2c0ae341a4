"""What rows are, told from their keys and from the settings; all rows of a file are of one kind."""

from collections.abc import Sequence
from enum import Enum

from heft.errors import HeftError
from heft.tasks.rows.settings import RowsSettings
from heft.tasks.table import Row

CHAT_COLUMNS = ("messages", "conversations", "conversation")


class Kind(Enum):
    """A kind of rows; the value says it in words, by the columns that rows of the kind have."""

    TEMPLATE = "the columns of task.prompt and task.answer"
    CHAT = "messages"
    PAIR = "prompt and completion"
    QUESTION = "question, choices and answer"
    ALPACA = "instruction and output"


_EXPECTED = (
    "expected the keys prompt and completion, question, choices and answer, messages or conversations, or instruction"
    " and output (Alpaca); for other columns set task.prompt and task.answer"
)


def kind_of_row(row: dict, settings: RowsSettings) -> Kind | None:
    """The kind that a row is meant to be, complete or not; None where nothing tells."""
    if settings.prompt is not None:
        return Kind.TEMPLATE
    if chat_column(row, settings) is not None:
        return Kind.CHAT
    if any(isinstance(row.get(key), list) for key in ("prompt", "completion")):
        return Kind.CHAT
    found = [
        kind
        for kind, keys in (
            (Kind.PAIR, ("prompt", "completion")),
            (Kind.QUESTION, ("question", "choices")),
            (Kind.ALPACA, ("instruction", "output")),
        )
        if any(key in row for key in keys)
    ]
    whole = [kind for kind in found if _required(kind) <= row.keys()]
    if len(whole) == 1:
        return whole[0]
    return found[0] if len(found) == 1 else None


def chat_column(row: dict, settings: RowsSettings) -> str | None:
    """The column of a row that holds a chat; None where none does."""
    if settings.messages is not None:
        return settings.messages
    return next((name for name in CHAT_COLUMNS if isinstance(row.get(name), list | str)), None)


def unknown_row(row: dict) -> str:
    """What is wrong with a row whose kind nothing tells."""
    return f"{_EXPECTED}; got {', '.join(map(str, row)) or 'no keys'}"


def require_one_kind(rows: Sequence[Row], settings: RowsSettings, where: str) -> None:
    """Require that rows, as far as their kind is told, are of one kind.

    Raises:
        HeftError: they are not; each kind is counted, with the first place that has it.
    """
    places: dict[Kind, list[str]] = {}
    for place, row in rows:
        kind = kind_of_row(row, settings)
        if kind is not None:
            places.setdefault(kind, []).append(place)
    if len(places) > 1:
        counted = [f"{len(found):,} with {kind.value} (first {found[0]})" for kind, found in places.items()]
        raise HeftError(f"{where} mixes rows of several kinds, {' and '.join(counted)}; give each kind its own file")


def _required(kind: Kind) -> set[str]:
    return {
        Kind.PAIR: {"prompt", "completion"},
        Kind.QUESTION: {"question", "choices", "answer"},
        Kind.ALPACA: {"instruction", "output"},
    }.get(kind, set())
