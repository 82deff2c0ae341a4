"""`heft plan --show`: training examples drawn token by token, in colour, and with marks that need none."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from heft.edits.positions import parse_positions
from heft.text.listing import letter

if TYPE_CHECKING:
    from heft.data.inspect import Editor, Shown, ShownExample, ShownToken

PROMPT, EDITED, TRAINED, SPECIAL = "cyan", "bold yellow", "bold green", "magenta"
_BESIDE = 40
"""Tokens that are shown on either side of what is left out, where a prompt has more than three times as many."""
_LINE_END = re.compile(r"↵⟩?\}?(?:\][A-Z,]+)?│")
"""A token that ends a line, with the marks behind it; the next one is drawn on a line of its own."""
_SPACES = {" ": "·", "\n": "↵", "\t": "⇥"}
_MARKS = frozenset("\\│[]{}⟨⟩…") | frozenset(_SPACES.values())
_UNSEEN = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"))


def drawn(shown: "Shown") -> Text:
    """The legend, then every example."""
    letters = _letters(shown.editors)
    lines = [*_legend(shown.editors, letters)]
    for number, example in enumerate(shown.examples, start=1):
        lines += [Text(), *_example(number, len(shown.examples), example, letters)]
    return Text("\n").join(lines)


def visible(text: str) -> str:
    """Text of a token on one line: spaces and line ends as signs, `\\` before what would read as a mark of ours.

    Everything else that cannot be seen, or could drive a terminal, is written as `\\u{…}`.
    """
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in _SPACES:
        return _SPACES[character]
    if character in _MARKS:
        return f"\\{character}"
    return f"\\u{{{ord(character):x}}}" if unicodedata.category(character) in _UNSEEN else character


def _letters(editors: "Sequence[Editor]") -> dict[int, str]:
    """A, B, … Z, AA, … for the numbers of the editors that edit positions."""
    editing = [number for number, editor in enumerate(editors) if editor.positions is not None]
    return {number: letter(place).upper() for place, number in enumerate(editing)}


def _legend(editors: "Sequence[Editor]", letters: dict[int, str]) -> Iterator[Text]:
    yield Text.assemble(
        "how to read it: ", ("prompt│tokens", PROMPT), "  ", ("[edited│tokens]A", EDITED), "  ",
        ("{trained│answer}", TRAINED), "  ", ("⟨special token⟩", SPECIAL),
    )  # fmt: skip
    yield Text("│ between tokens, · a space, ↵ a line end, ⇥ a tab; \\ before a sign that is the text's own")
    for number, editor in enumerate(editors):
        if editor.positions is None:
            yield Text(f"– {editor.name}: edits no positions, it updates weights")
        else:
            yield Text.assemble(
                (letters[number], EDITED), f" {editor.name}: edits {parse_positions(editor.positions).in_words()}"
            )


def _example(number: int, total: int, example: "ShownExample", letters: dict[int, str]) -> Iterator[Text]:
    answer = sum(token.trained for token in example.tokens)
    cut = f", {example.cut:,} cut out of the prompt" if example.cut else ""
    head = f"example {number} of {total}: {len(example.tokens):,} tokens, {example.prompt_tokens:,} of them prompt"
    yield Text(f"{head}, {answer:,} trained{cut}; id {example.id}", style="bold")
    for place, mark in letters.items():
        yield Text(f"{mark} edits {_runs([i for i, token in enumerate(example.tokens) if place in token.edited_by])}")
    text = Text("│").join(_stretches(example.tokens, letters))
    yield from text.divide([found.end() for found in _LINE_END.finditer(text.plain)])


def _runs(places: Sequence[int]) -> str:
    """`tokens 0–6 and 31–37`, counted from 0, or `no token`."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][1] == place - 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    words = [f"{a}–{b}" if a != b else f"{a}" for a, b in runs]
    return f"tokens {' and '.join(words)}" if words else "no token"


def _stretches(tokens: "Sequence[ShownToken]", letters: dict[int, str]) -> Iterator[Text]:
    """Runs of tokens of one kind, drawn."""
    for (edited_by, trained), group in groupby(tokens, key=lambda token: (token.edited_by, token.trained)):
        pieces = [_drawn(token, bool(edited_by), trained) for token in group]
        if edited_by or trained:
            opening, closing = "[" * bool(edited_by) + "{" * trained, "}" * trained + "]" * bool(edited_by)
            style = TRAINED if trained else EDITED
            pieces[0] = Text(opening, style=style) + pieces[0]
            pieces[-1] += Text(closing + ",".join(letters[number] for number in edited_by), style=style)
        elif len(pieces) > 3 * _BESIDE:
            left_out = len(pieces) - 2 * _BESIDE
            pieces[_BESIDE:-_BESIDE] = [Text(f"… {left_out:,} tokens …", style="dim")]
        yield Text("│").join(pieces)


def _drawn(token: "ShownToken", edited: bool, trained: bool) -> Text:
    style = TRAINED if trained else EDITED if edited else PROMPT
    style += " underline" if trained and edited else ""
    text = visible(token.text)
    return Text(f"⟨{text}⟩", style=SPECIAL if style == PROMPT else style) if token.special else Text(text, style)
