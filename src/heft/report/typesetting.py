"""How texts are set on the page: where a line may end, what runs from right to left, what is code."""

import re

from markupsafe import Markup

_LEFTWARD = "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
"""Hebrew, Arabic and the other scripts that run from right to left."""
_LEFTWARD_WORDS = re.compile(f"({_LEFTWARD}+(?:[ '’-]+{_LEFTWARD}+)*)")
_FIGURE = re.compile(r"([+−]?\d[\d.,]*(?:–[\d.,]*\d| to [+−][\d.,]*\d)?(?: %|–)?)")


def isolated(text: str) -> Markup:
    """A text in which words that run from right to left do not take the figures beside them along."""
    return _marked(_LEFTWARD_WORDS.split(text), "<bdi>{}</bdi>")


def unbroken(text: str) -> Markup:
    """The same, in which no line ends within an interval, or between a figure and its per cent sign."""
    whole = Markup('<span class="whole">{}</span>')
    return Markup("").join(
        whole.format(part) if i % 2 and re.search(r"[ –]", part) else isolated(part)
        for i, part in enumerate(_FIGURE.split(text))
    )


def breakable(text: str) -> Markup:
    """The same of a name that may go on to the next line after a dot, an underscore or a slash."""
    return Markup("<wbr>").join(map(isolated, re.split(r"(?<=[._/])(?=\w)", text)))


def code(text: str) -> Markup:
    """A sentence in which what stands between backticks is set as code."""
    return _marked(re.split(r"`([^`]*)`", text), "<code>{}</code>")


def _marked(parts: list[str], markup: str) -> Markup:
    """Every second part within the markup."""
    return Markup("").join(Markup(markup).format(part) if i % 2 else part for i, part in enumerate(parts))
