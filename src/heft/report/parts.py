"""What sections are made of: cells, tables, panels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from heft.text.listing import letter

DASH = "–"


@dataclass(frozen=True)
class Cell:
    """A figure in words, or a dash and why there is no figure."""

    text: str
    why: str | None = None


@dataclass(frozen=True)
class Heading:
    """A column's heading; `explained` says more than fits."""

    text: str
    explained: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows. Reasons for dashes become notes below it."""

    caption: str
    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    explained: str = ""

    @property
    def notes(self) -> dict[str, str]:
        """Reason → its letter, in the order in which they appear."""
        reasons = dict.fromkeys(cell.why for row in self.rows for cell in row if cell.why)
        return {why: letter(i) for i, why in enumerate(reasons)}


@dataclass(frozen=True)
class Panel:
    """A figure: a drawing, what it shows in words, and its numbers where the words cannot hold them all.

    The title is empty where the section's title says it.
    """

    title: str
    svg: Markup
    words: str
    numbers: Table | None = None


@dataclass(frozen=True)
class Section:
    """A part of the page. `paragraphs` come first, then panels, tables and `blocks` (examples)."""

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    panels: Sequence[Panel] = ()
    tables: Sequence[Table] = ()
    blocks: Sequence[Any] = field(default=())


def figure(value: Any, words: Callable[[Any], str], why: str) -> Cell:
    """A cell of a figure that may be undefined: never 0, but a dash with the reason."""
    return Cell(DASH, why) if value is None else Cell(words(value))
