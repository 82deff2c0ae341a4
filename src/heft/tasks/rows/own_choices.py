"""The choices that a row has of its own, and which of them its answer is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from string import ascii_uppercase
from typing import Any

from heft.errors import HeftError
from heft.settings.words import show
from heft.tasks.base import quotes_hint
from heft.tasks.choices import check_options
from heft.tasks.example import content_hash
from heft.tasks.rows.cells import cell, index_in
from heft.tasks.rows.template import text_of, text_of_column
from heft.text.listing import listed


class Names(Enum):
    """What the names of a row's choices are: the columns that they stand in, labels in the row, or letters."""

    COLUMNS = "column"
    LABELS = "label"
    LETTERS = "letter"


_WAY_OUT = {
    Names.COLUMNS: "write the right choice's column, and give columns names that are no choice's text",
    Names.LABELS: "write the right choice's label",
    Names.LETTERS: "write the right choice's index from 0, not in quotes",
}


@dataclass(frozen=True)
class OwnChoices:
    """The choices of one row.

    Attributes:
        texts: of the choices.
        names: what each is called, so that an answer can say which is right; letters end with Z.
        of: what the names are.
    """

    texts: list[str]
    names: list[str]
    of: Names

    def gold(self, answer: Any, is_name: bool = False) -> int:
        """The index of the answer.

        An answer is the text of exactly one choice, or its name, or its index from 0, which among columns may be text,
        as all cells of CSV are. Labels in the row are what its answer is for, so they come before texts.

        Args:
            answer: from the row.
            is_name: whether it was made by `label_names`; a name comes before texts then.

        Raises:
            HeftError: it is none of them, or could mean two choices.
        """
        name = (text_of(answer) or "").strip()
        if (is_name or self.of is Names.LABELS) and name in self.names:
            return self.names.index(name)
        if isinstance(answer, str):
            return self._by_text(answer)
        if self.of is Names.LABELS:
            raise HeftError(f"answer {show(answer)} must be {self._expected}")
        return self._by_index(answer)

    def _by_text(self, answer: str) -> int:
        meant = {place for place, text in enumerate(self.texts) if text.strip() == answer.strip()}
        if self.texts.count(answer) == 1:
            meant = {self.texts.index(answer)}
        name = answer.strip().upper() if self.of is Names.LETTERS else answer
        if name in self.names:
            meant |= {self.names.index(name)}
        index = index_in(answer) if self.of is Names.COLUMNS else None
        if index is not None and index < len(self.texts):
            meant |= {index}
        if len(meant) == 1:
            return meant.pop()
        if meant:
            could_be = [self._in_words(place) for place in sorted(meant)]
            raise HeftError(f"answer {show(answer)} could mean {listed(could_be)}; {_WAY_OUT[self.of]}")
        if index is not None:
            return self._by_index(index)
        raise HeftError(f"answer {show(answer)} must be {self._expected}")

    def _by_index(self, answer: Any) -> int:
        if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(self.texts):
            expected = f"answer must be an index from 0 to {len(self.texts) - 1} or the text of a choice"
            raise HeftError(f"{expected}; got {show(answer)}{quotes_hint(answer)}")
        texts = [text.strip() for text in self.texts]
        if str(answer) in texts and texts[answer] != str(answer):
            raise HeftError(
                f"answer {answer} is the index of {show(self.texts[answer])}, counted from 0, and the text of another"
                " choice; write the right choice's text, in quotes"
            )
        return answer

    def _in_words(self, place: int) -> str:
        name = self.names[place] if place < len(self.names) else f"index {place}"
        return f"{show(self.texts[place])} ({self.of.value} {name})"

    @property
    def _expected(self) -> str:
        match self.of:
            case Names.COLUMNS:
                also = f", one of the columns {', '.join(self.names)}, or an index from 0"
            case Names.LABELS:
                also = f" or one of the labels {', '.join(self.names)}"
            case Names.LETTERS:
                also = ", its letter or an index from 0"
        return f"the text of exactly one choice{also}"


def choices_in_columns(row: dict, columns: Sequence[str]) -> OwnChoices:
    """The choices that stand in a column each, or several of them as a list in one.

    Raises:
        HeftError: one is missing, no text, or empty.
    """
    texts, names = [], []
    for column in columns:
        value = cell(row, column)
        if isinstance(value, list):
            check_options(value, column, least=1)
        found = value if isinstance(value, list) else [text_of_column(row, column)]
        texts, names = texts + found, names + [column] * len(found)
    return OwnChoices(texts, names, Names.COLUMNS)


def choices_in_column(row: dict, column: str) -> OwnChoices:
    """The choices that stand in one column.

    It holds a list of texts; or an object of the lists `text` and `label`, as ARC has it; or one that has the text of
    each choice under its label.

    Raises:
        HeftError: it does not, or there are less than two.
    """
    value = cell(row, column)
    if isinstance(value, list):
        check_options(value, column, least=2)
        return OwnChoices(value, list(ascii_uppercase[: len(value)]), Names.LETTERS)
    if not isinstance(value, dict):
        raise HeftError(f"{column} must be a list; got {show(value)}")
    texts, labels = value.get("text"), value.get("label")
    if not (isinstance(texts, list) and isinstance(labels, list)):
        given = {label: text for label, text in value.items() if text is not None}  # Parquet: of another row's labels
        texts, labels = list(given.values()), list(given)
    names = [(text_of(label) or "").strip() for label in labels]
    check_options(texts, column, least=2)
    if len(names) != len(texts) or len(set(names)) < len(names) or not all(names):
        raise HeftError(f"{column} must have a label of its own for each choice; got {show(value)}")
    return OwnChoices(texts, names, Names.LABELS)


def in_drawn_order(own: OwnChoices, prompt: str) -> OwnChoices:
    """The choices in an order that is drawn by the prompt and the texts, so that it is the same at every reading.

    For rows in which one column holds the right choice, whose place would tell it.
    """
    order = sorted(range(len(own.texts)), key=lambda place: content_hash(prompt, own.texts[place].strip()))
    return replace(own, texts=[own.texts[place] for place in order], names=[own.names[place] for place in order])
