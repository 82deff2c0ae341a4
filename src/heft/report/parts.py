"""What sections are made of: cells, tables, panels, and blocks that the templates know by their `kind`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from markupsafe import Markup

from heft.text.listing import letter

DASH = "–"
ONE_SEED = "one seed says nothing of the spread over seeds"


@dataclass(frozen=True)
class Cell:
    """A figure in words, or a dash and why there is no figure; `shade` from 0 to 1 darkens what lies behind it."""

    text: str
    why: str | None = None
    shade: float = 0.0


@dataclass(frozen=True)
class Heading:
    """A column's heading; `explained` says more than fits."""

    text: str
    explained: str = ""
    is_text: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows. Reasons for dashes become notes below it.

    `folded` says what it is in place of the caption, where it stays closed until asked for. `upright` headings are
    written from below upwards, which long names over narrow columns need.
    """

    caption: str
    headings: Sequence[Heading]
    rows: Sequence[Sequence[Cell]]
    explained: str = ""
    folded: str = ""
    upright: bool = False

    @property
    def notes(self) -> dict[str, str]:
        """Reason → its letter, in the order in which they appear."""
        reasons = dict.fromkeys(cell.why for row in self.rows for cell in row if cell.why)
        return {why: letter(i) for i, why in enumerate(reasons)}


@dataclass(frozen=True)
class Panel:
    """A figure: drawings, what they show in words, and their numbers where the words cannot hold them all.

    The title is empty where the section's title says it; `second` is a further drawing, or empty.
    """

    title: str
    svg: Markup
    words: str
    numbers: Table | None = None
    second: Markup = Markup()


@dataclass(frozen=True)
class Tile:
    """A figure in large type with its name, and what else there is to say of it."""

    name: str
    figure: str
    more: str = ""


@dataclass(frozen=True)
class Snippet:
    """Lines to paste. `language` is that of the lines; `about` says what they do."""

    title: str
    about: str
    lines: str
    language: str
    kind: ClassVar[str] = "snippet"


@dataclass(frozen=True)
class Confused:
    """Two labels taken for one another, with a row as an example; None where its text is not known."""

    right: str
    given: str
    often: str
    example: str | None
    kind: ClassVar[str] = "confused"


@dataclass(frozen=True)
class Section:
    """A part of the page. `paragraphs` come first, then panels, tables and `blocks`.

    Where `folded` is given, it is what a person clicks on to see all but the paragraphs. `side` puts panels and tables
    beside each other where the page is wide.
    """

    id: str
    title: str
    paragraphs: Sequence[str] = ()
    panels: Sequence[Panel] = ()
    tables: Sequence[Table] = ()
    blocks: Sequence[Any] = field(default=())
    folded: str = ""
    side: bool = False


def figure(value: Any, words: Callable[[Any], str], why: str) -> Cell:
    """A cell of a figure that may be undefined: never 0, but a dash with the reason."""
    return Cell(DASH, why) if value is None else Cell(words(value))


def spread(deviation: float) -> str:
    """A standard deviation or error, in percentage points."""
    return f"{100 * deviation:.2f}"
