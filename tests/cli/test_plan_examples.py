"""`heft plan --show`: examples in colour, with marks that need none, and nothing in them that drives a terminal."""

import json
import re
from io import StringIO

import pytest
from rich.console import Console

from commands import heft
from heft.cli.plan import plan
from heft.cli.plan_examples import drawn, visible
from heft.data.inspect import Editor, Shown, ShownExample, ShownToken, show_examples
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from tiny_recipe import write_recipe

STAGES = (
    "{coarse: {method: lora, rank: 2, steps: 1}, fine: {method: reft, rank: 2, positions: f1+l3, steps: 1},"
    " finer: {method: reft, rank: 2, positions: l1, steps: 1}}"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def token(text="x", special=False, trained=False, edited_by=()):
    return ShownToken(7, text, special, trained, tuple(edited_by))


def lines(*tokens, editors=None) -> list[str]:
    """An example as drawn, without the legend; one editor if none are given."""
    editors = editors or (Editor("fine", "l1"),)
    shown = Shown(editors, (ShownExample("id", len(tokens), 0, tokens),))
    return drawn(shown).plain.split("\n\n")[1].splitlines()


def test_piped_output_has_the_marks_and_no_colour(tmp_path):
    path = write_recipe(tmp_path, STAGES, task="{name: whereabouts}")  # prompts that are too long to be shown whole
    piped = heft("plan", path, "--no-probe", "--show", "2", cwd=tmp_path)
    assert (piped.returncode, piped.stderr) == (0, "")
    assert "\x1b" not in piped.stdout
    shown = piped.stdout.splitlines()
    assert shown[2:5] == [
        "– coarse: edits no positions, it updates weights",
        "A fine: edits the first 1 and the last 3 of the prompt (f1+l3)",
        "B finer: edits the last 1 of the prompt (l1)",
    ]
    assert [line.partition(":")[0] for line in shown if line.startswith("example")] == [
        "example 1 of 2", "example 2 of 2",
    ]  # fmt: skip
    rows = [line for line in shown if line.startswith("[")]
    assert len(rows) == 2
    assert all(re.search(r"^\[.\]A│.*│\[t│h\]A│\[e\]A,B│\{·│[a-z│]+\}$", row) for row in rows)
    assert "│… " in rows[0]
    assert "plan" in shown[-20:]  # the plan's table comes behind


def test_a_terminal_shows_prompt_edits_and_answer_in_different_colours(tmp_path):
    shown = drawn(show_examples(load_recipe(write_recipe(tmp_path, STAGES)), 2))
    screen = StringIO()
    Console(file=screen, force_terminal=True, color_system="standard", soft_wrap=True, highlight=False).print(shown)
    assert COLOUR.sub("", screen.getvalue()) == shown.plain + "\n"
    (row, _) = [line for line in screen.getvalue().splitlines() if COLOUR.sub("", line).startswith("[")]
    assert re.match(r"\x1b\[1;33m\[", row)  # edited
    assert re.search(r"│\x1b\[36mn\x1b\[0m│", row)  # prompt
    assert re.search(r"\x1b\[1;32m\{\x1b\[0m", row)  # trained


def test_json_holds_every_token_of_what_is_drawn_and_is_the_plan_otherwise(tmp_path, capsys):
    path, found = write_recipe(tmp_path, STAGES), []
    for show in (None, 2):
        plan(path, [], probe=False, as_json=True, show=show)
        found.append(json.loads(capsys.readouterr().out))
    assert found[1] == found[0] | {"shown": found[1]["shown"]}
    shown = found[1]["shown"]
    assert [editor["positions"] for editor in shown["editors"]] == [None, "f1+l3", "l1"]
    assert len(shown["examples"]) == 2
    for example in shown["examples"]:
        tokens = example["tokens"]
        assert [tokens[i]["edited_by"] for i in (0, 1, example["prompt_tokens"] - 1)] == [[1], [], [1, 2]]
        assert "".join(each["text"] for each in tokens if each["trained"]).startswith(" ")


def test_what_a_check_finds_ends_the_plan_after_the_examples_are_shown(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "a prompt\x1b[2J\u202e", "completion": "a"}))
    task = f"task={{name: rows, train: {rows}, eval: {rows}}}"
    with pytest.raises(HeftError, match="1 of 1 train rows stands in the evaluation set too") as caught:
        plan(write_recipe(tmp_path, STAGES), [task], probe=False, as_json=False, show=1)
    printed = capsys.readouterr().out
    assert "\\u{1b}│\\[│2" in printed
    assert "{·│a│⟨<eos>⟩}" in printed
    assert not any(character in printed + str(caught.value) for character in "\x1b\u202e")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (" a\n\tb", "·a↵⇥b"),
        ("\x1b]0;x\x07\x9b1m", "\\u{1b}\\]0;x\\u{7}\\u{9b}1m"),
        ("\u202e\u200b\ufeff\u2028\xa0\U000e0041\r", "\\u{202e}\\u{200b}\\u{feff}\\u{2028}\\u{a0}\\u{e0041}\\u{d}"),
        ("[bold]{·}│⟨\\n⟩↵⇥…", "\\[bold\\]\\{\\·\\}\\│\\⟨\\\\n\\⟩\\↵\\⇥\\…"),
        ("é漢🙂", "é漢🙂"),
    ],
)
def test_all_that_is_not_seen_is_spelt_and_marks_in_the_text_are_told_from_ours(text, seen):
    assert visible(text) == seen


def test_a_long_prompt_loses_its_middle_and_never_an_edited_or_trained_token():
    long, short = [token("P")] * 121, [token("P")] * 120
    edited, answer = [token("E", edited_by=[0])] * 200, [token("T", trained=True)] * 200
    line = lines(*long, *edited, *short, *answer)[2]
    assert [line.count(letter) for letter in "PET"] == [2 * 40 + 120, 200, 200]
    assert "P│… 41 tokens …│P" in line


def test_a_stage_that_edits_no_token_of_an_example_says_so():
    assert lines(token(), token(trained=True))[1] == "A edits no token"


def test_runs_of_edited_tokens_are_numbered_from_zero():
    one = token(edited_by=[0])
    assert lines(one, token(), one, one, token(trained=True))[1] == "A edits tokens 0 and 2–3"


def test_a_line_ends_behind_a_token_that_ends_one_whatever_its_marks():
    drawn_lines = lines(token("a"), token("\n"), token(".\n", edited_by=[0]), token("b", trained=True))
    assert drawn_lines[2:] == ["a│↵│", "[.↵]A│", "{b}"]


def test_letters_go_on_after_z():
    editors = tuple(Editor(f"s{n}", "l1") for n in range(28))
    assert lines(token(edited_by=[25, 26, 27]), token(trained=True), editors=editors)[-1] == "[x]Z,AA,AB│{x}"
