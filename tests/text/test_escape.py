"""Nothing that a stranger wrote drives a terminal, or acts in a page."""

import io
import json
import sys
import unicodedata
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from heft.cli import main
from heft.cli.show import ConsoleReporter, PlainConsole
from heft.text.escape import escape_controls

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202eevil\u2066\r\x00\x7f[bold]x[/] :smile: \u2028\U000e0041"


@given(st.text(st.characters(codec=None)))
def test_no_control_character_and_no_mark_of_direction_is_left(text):
    shown = escape_controls(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") and c not in "\n\t"]
    assert not [
        c
        for c in shown
        if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    ]
    shown.encode("utf-8")


@given(st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp"))))
def test_other_text_is_left_as_it_is(text):
    assert escape_controls(text + "\n\t") == text + "\n\t"


@given(st.dictionaries(st.text(), st.text()))
def test_inside_json_it_stays_json_of_the_same_value(value):
    assert json.loads(escape_controls(json.dumps(value, ensure_ascii=False))) == value


@pytest.fixture
def screen():
    """A console that believes to be a terminal, without colours of its own."""
    return PlainConsole(file=io.StringIO(), force_terminal=True, color_system=None, width=200, soft_wrap=True)


def check(shown):
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Zl") and c not in "\n"], repr(shown)
    assert "\u202e" not in shown
    assert "\\u001b[2J" in shown
    assert "[bold]x[/]" in shown
    assert ":smile:" in shown


def test_notes_are_shown_as_text(screen):
    ConsoleReporter(screen).note(HOSTILE)
    check(screen.file.getvalue())


def test_tables_are_shown_as_text_in_cells_titles_and_headings(screen):
    for part in range(3):
        table = Table(title=HOSTILE if part == 0 else None)
        table.add_column(HOSTILE if part == 1 else "x", no_wrap=True)
        table.add_row(HOSTILE if part == 2 else "x")
        screen.file.seek(0)
        screen.file.truncate()
        screen.print(table)
        check(screen.file.getvalue())


def test_progress_is_shown_as_text(screen):
    reporter = ConsoleReporter(screen)
    with reporter.progress("\x1b]0;x\x07[bold]", 2):
        reporter.step("x", 1, 2)
    assert "\x1b]0" not in screen.file.getvalue()
    assert "\\u001b]0;x\\u0007[bold]" in screen.file.getvalue()


def test_an_error_is_shown_as_text(capsys, monkeypatch, tmp_path):
    from heft.cli import main

    monkeypatch.setattr("sys.argv", ["heft", "train", str(tmp_path / "\x1b[2J\u202eno.yaml")])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err
    assert end.value.code == 2
    assert "\\u001b[2J\\u202eno.yaml: no such file" in told
    assert "\x1b" not in told


@pytest.mark.parametrize("prompts", [["a prompt"], ["a prompt", "another"]], ids=["text", "lines"])
def test_what_a_model_says_is_shown_as_text(prompts, capsys, monkeypatch):
    said = f"one\n\ttwo{HOSTILE}"
    answer = SimpleNamespace(labels=(), text=said, answer=said)
    speaking = SimpleNamespace(answers=lambda given: [answer] * len(given))
    opened = SimpleNamespace(task=None, load=lambda *settings: speaking)
    monkeypatch.setattr("heft.prediction.speaking.speaker", lambda *given: opened)
    monkeypatch.setattr(sys, "argv", ["heft", "generate", "x", *prompts])
    with pytest.raises(SystemExit):
        main()
    told = capsys.readouterr().out
    assert "\ttwo\\u001b[2J" in told or "\\ttwo\\u001b[2J" in told
    check(told.replace("\t", ""))
