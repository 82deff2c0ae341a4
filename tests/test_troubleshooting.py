"""docs/troubleshooting.md quotes messages as they stand in the sources."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\| `([^`]+)` \|", DOCUMENT, re.M)
GAP = "\0"
"""Stands where a message has a value."""


def texts_of(source: str) -> list[str]:
    """Every text in a source; adjoining literals are one, and each value within is a gap."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@cache
def texts() -> list[str]:
    return [text for path in sorted((ROOT / "src/heft").rglob("*.py")) for text in texts_of(path.read_text("utf-8"))]


def stands_in(message: str, text: str) -> bool:
    """Whether a text has the fixed parts of a message, in their order; none of them has a gap."""
    parts = [part.strip() for part in message.split("…")]
    return re.search(".*".join(map(re.escape, parts)), text, re.S) is not None


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_stands_in_the_sources(message):
    assert any(stands_in(message, text) for text in texts())


def test_the_messages_are_many_and_each_stands_once():
    assert len(QUOTED) >= 25
    assert len(set(QUOTED)) == len(QUOTED)
    rows = re.findall(r"^\| (?!message \|)", DOCUMENT, re.M)
    assert len(rows) == len(QUOTED)  # so no row escapes the test


def test_a_message_that_has_changed_is_seen():
    (text,) = texts_of("raise ValueError(f'{path} is not a file.'\n f' {what} is')\n")[:1]
    assert text == f"{GAP} is not a file. {GAP} is"
    assert stands_in("… is not a file. …", text)
    assert not stands_in("… is no file. …", text)
    assert not stands_in("is … is not a file", text)
