"""docs/commands.md: every example runs, in order, in one folder, and prints what the document shows, figures apart.

The model is the tiny random one, stages take a few steps, and `heft plan` measures nothing. Examples in blocks marked
`hub` need a network: only their command lines are checked.
"""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from heft.cli import main
from heft.cli.app import app
from tickets import PARTS, write_tickets

DOCUMENT = Path(__file__).parents[2] / "docs/commands.md"
SECTIONS = re.findall(r"^## heft (\w+)\n(.*?)(?=^## |\Z)", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)
MODEL = "random:tiny-llama"
TINY = ["--set", f"model.name={MODEL}"]
STEPS = [word for stage in ("coarse", "fine") for word in ("--set", f"stages.{stage}.steps=2")]
ON_THE_TINY_MODEL = {
    "init": ["--model", MODEL],
    "train": [*TINY, *STEPS],
    "sweep": [*TINY, *STEPS],
    "tune": [*TINY, "--set", "tune.most_epochs=2"],
    "plan": [*TINY, "--no-probe"],
    "compare": ["--set", f"set.model.name={MODEL}"],
}
UNITS = {"kB", "MB", "GB", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "s", "min", "h"}
NEW = """id,text
T1,My package has not come yet
T2,The screen is black when I start it
T3,I would like my 40 euros back
"""


@dataclass
class Example:
    """A command of the document, what it shows of its output, and the exit status that it says."""

    line: str
    shown: list[str]
    status: int = 0


def examples(text: str, kind: str = "console") -> list[Example]:
    """The commands of the fenced blocks of a kind, in order."""
    found: list[Example] = []
    for block in re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Example(line.removeprefix("$ "), []))
            else:
                found[-1].shown.append(line)
    for before, example in zip(found, found[1:], strict=False):
        if example.line == "echo $?":
            before.status = int(example.shown[0])
    return [example for example in found if example.line != "echo $?"]


def on_the_tiny_model(line: str) -> list[str]:
    """The words of an example's command line, with what the test adds to it."""
    words = [MODEL if word.startswith("embedded:") else word for word in shlex.split(line)]
    name = words[1]
    is_for_runs = name == "compare" and "--dry-run" not in words
    return words[1:] + ([] if is_for_runs else ON_THE_TINY_MODEL.get(name, []))


def run(line: str) -> tuple[int, str]:
    """Exit status and output, of both streams, of an example; commands of heft run in this process."""
    if not line.startswith("heft "):
        done = subprocess.run(line, shell=True, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        patch.setattr(sys, "argv", ["heft", *on_the_tiny_model(line)])
        try:
            main()
        except SystemExit as end:
            return end.code or 0, output.getvalue()
    return 0, output.getvalue()


def words_of(line: str) -> list[str]:
    """The words of a line without figures, hashes, units and the tickets' labels, which differ by model."""
    words = re.findall(r"\w+", line)
    return [word for word in words if not re.search(r"\d", word) and word not in UNITS and word not in PARTS]


def has(output: str, shown: str) -> bool:
    """Whether a line of the output has the words of a shown line, in their order."""
    for line in output.splitlines():
        rest = iter(words_of(line))
        if all(word in rest for word in words_of(shown)):
            return True
    return False


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """For each section, its examples with what they did, after all before them."""
    folder = tmp_path_factory.mktemp("commands")
    write_tickets(folder)
    (folder / "new.csv").write_text(NEW, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setenv("COLUMNS", "200")
        return {name: [(each, *run(each.line)) for each in examples(text)] for name, text in SECTIONS}


def test_the_document_has_every_command_once():
    commands = typer.main.get_command(app).commands
    assert sorted(name for name, _ in SECTIONS) == sorted(commands)


@pytest.mark.parametrize("name", [name for name, _ in SECTIONS])
def test_the_examples_of_a_command_end_and_print_as_the_document_says(name, outcomes):
    assert any(
        example.line.startswith(f"heft {name} ") or example.line == f"heft {name}" for example, *_ in outcomes[name]
    )
    for example, status, output in outcomes[name]:
        assert status == example.status, f"{example.line}\n{output}"
        for shown in example.shown:
            assert has(output, shown), f"{example.line}\nthe document shows: {shown}\n{output}"


@pytest.mark.parametrize(("name", "line"), [(n, e.line) for n, text in SECTIONS for e in examples(text, "console hub")])
def test_a_command_line_that_needs_the_hub_is_one_that_heft_takes(name, line):
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, shlex.split(line)[2:])
    assert line.startswith(f"heft {name} ")


def test_a_line_that_the_output_lacks_is_seen():
    output = "3 rows in 0.2 s (14.3 rows per second)\npredictions: answered.csv\n"
    assert has(output, "7 rows in 1.2 s (2.3 rows per second)")
    assert not has(output, "7 rows per second in 1.2 s")
    assert not has(output, "rows: answered.csv")
