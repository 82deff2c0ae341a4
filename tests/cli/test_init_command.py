"""`heft init`, from a file to a trained run."""

import os
import signal
import subprocess
import time

import psutil
import pytest

from commands import COMMAND, ENVIRONMENT, heft
from heft.recipe.files import load_recipe
from tickets import write_tickets


@pytest.fixture
def tickets(tmp_path):
    """A folder with the tickets."""
    write_tickets(tmp_path)
    return tmp_path


def test_from_a_file_to_a_trained_run(tickets):
    made = heft("init", "tickets.csv", "--model", "random:tiny-llama", cwd=tickets)
    assert made.returncode == 0, made.stderr
    assert "taken for: labels. 'label' has 4 different values in 200 rows" in made.stdout
    assert made.stdout.count("tokens, ") >= 2
    assert "{·" in made.stdout  # where the loss begins
    steps = ["--set", "stages.coarse.steps=2", "--set", "stages.fine.steps=2"]
    trained = heft("train", "recipe.yaml", *steps, cwd=tickets)
    assert trained.returncode == 0, trained.stderr
    assert "results on 40 evaluation examples" in trained.stdout
    assert (tickets / "runs/tickets/adapter/heft.json").is_file()
    stored = (tickets / "runs/tickets/recipe.yaml").read_text()
    assert "- account\n  - broken\n  - delay\n  - refund" in stored  # the labels that were found
    evaluated = heft("eval", tickets / "runs/tickets/adapter", cwd="/")  # paths do not depend on where one stands
    assert evaluated.returncode == 0, evaluated.stderr
    assert "40 examples" in evaluated.stdout
    again = heft("train", "recipe.yaml", "--resume", *steps, cwd=tickets)
    assert again.returncode == 0, again.stderr


def test_a_recipe_that_is_there_is_kept(tickets):
    (tickets / "recipe.yaml").write_text("mine", encoding="utf-8")
    refused = heft("init", "tickets.csv", cwd=tickets)
    assert (refused.returncode, (tickets / "recipe.yaml").read_text()) == (2, "mine")
    assert "--overwrite" in refused.stderr
    made = heft("init", "tickets.csv", "--overwrite", "--model", "random:tiny-llama", cwd=tickets)
    assert made.returncode == 0
    assert "name: tickets" in (tickets / "recipe.yaml").read_text()


@pytest.mark.parametrize("source", ["tickets.csv", "./tickets.csv", "link.csv"])
def test_rows_are_not_written_over(tickets, source):
    (tickets / "link.csv").symlink_to("tickets.csv")
    before = (tickets / "tickets.csv").read_bytes()
    refused = heft("init", source, "--output", "tickets.csv", "--overwrite", cwd=tickets)
    assert "heft: --output tickets.csv is the file that the rows are in; give another for the recipe" in refused.stderr
    assert (refused.returncode, (tickets / "tickets.csv").read_bytes()) == (2, before)


def test_a_recipe_behind_a_link_finds_its_rows_from_either_side(tickets):
    (tickets / "deep" / "real").mkdir(parents=True)
    (tickets / "link").symlink_to("deep/real")
    (tickets / "own recipes").mkdir()
    flags = ["--model", "random:tiny-llama", "--output"]
    made = heft("init", "tickets.csv", *flags, "link/recipe.yaml", cwd=tickets)
    assert made.returncode == 0, made.stderr
    for cwd, file in ((tickets, "link/recipe.yaml"), (tickets / "deep/real", "recipe.yaml")):
        planned = heft("plan", file, "--no-probe", cwd=cwd)
        assert planned.returncode == 0, planned.stderr
    made = heft("init", "tickets.csv", *flags, "own recipes/recipe.yaml", cwd=tickets)
    assert made.stdout.endswith("next: heft train 'own recipes/recipe.yaml'\n")
    assert "train: ../tickets.csv" in (tickets / "own recipes/recipe.yaml").read_text()


def test_instructions_need_no_chat_template_where_the_model_has_none(tmp_path):
    rows = [f'{{"instruction": "say {i}", "output": "it is {i}"}}' for i in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    made = heft("init", "a.jsonl", "--model", "random:tiny-llama", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "the model has no chat template" in made.stdout
    assert not load_recipe(tmp_path / "recipe.yaml").task.chat_template
    asked = heft("init", "a.jsonl", "--model", "random:tiny-llama", "--chat-template", "--overwrite", cwd=tmp_path)
    assert (asked.returncode, "(heft init: --no-chat-template)" in " ".join(asked.stderr.split())) == (2, True)


def test_flags_stand_in_the_recipe(tickets):
    flags = ["--prompt", "{text}\\nWhat is it?", "--answer", "label", "--format", "letters", "--eval-share", "0.5"]
    made = heft("init", "tickets.csv", *flags, "--output", "other.yaml", "--model", "random:tiny-llama", cwd=tickets)
    assert made.returncode == 0, made.stderr
    text = (tickets / "other.yaml").read_text()
    assert 'prompt: "{text}\\nWhat is it?"' in text
    assert "format: letters" in text
    assert "eval_share: 0.5" in text


def test_a_spreadsheets_encoding_is_named_and_then_taken(tickets):
    text = (tickets / "tickets.csv").read_text(encoding="utf-8-sig").replace("refund", "r\u00fcckgabe")
    (tickets / "old.csv").write_bytes(text.encode("cp1252"))
    refused = heft("init", "old.csv", "--output", "old.yaml", cwd=tickets)
    assert refused.returncode == 2
    assert "--encoding cp1252" in refused.stderr
    flags = ["--encoding", "cp1252", "--output", "old.yaml", "--model", "random:tiny-llama"]
    made = heft("init", "old.csv", *flags, cwd=tickets)
    assert made.returncode == 0, made.stderr
    assert "encoding: cp1252" in (tickets / "old.yaml").read_text()
    steps = ["--set", "stages.coarse.steps=1", "--set", "stages.fine.steps=1"]
    trained = heft("train", "old.yaml", *steps, cwd=tickets)
    assert trained.returncode == 0, trained.stderr
    assert "- r\u00fcckgabe" in (tickets / "runs/old/recipe.yaml").read_text(encoding="utf-8")


def test_without_a_terminal_nothing_is_asked_and_nothing_is_left(tmp_path):
    (tmp_path / "odd.csv").write_text("id,x\n" + "".join(f"{n},{n}.5\n" for n in range(20)), encoding="utf-8")
    refused = heft("init", "odd.csv", cwd=tmp_path)
    assert refused.returncode == 2
    assert "do not say what the task is" in refused.stderr
    assert not (tmp_path / "recipe.yaml").exists()


@pytest.mark.parametrize("label", ["a\x1b[31mb", "a\x85b", "a\u2028b", "a\uffffb"])
def test_labels_with_odd_characters_neither_drive_a_terminal_nor_spoil_the_recipe(tmp_path, label):
    rows = "".join(f"some text number {n},{label if n % 3 else 'c'}\n" for n in range(30))
    (tmp_path / "odd.csv").write_text(f"text,label\n{rows}", encoding="utf-8", newline="")
    made = heft("init", "odd.csv", "--model", "random:tiny-llama", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert not set("\x1b\x85\u2028") & set(made.stdout)
    assert load_recipe(tmp_path / "recipe.yaml").task.answer == "label"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no terminal to type at")
@pytest.mark.parametrize(("key", "status", "last"), [(b"\x03", 130, "interrupted"), (b"\x04", 2, "do not say what")])
def test_at_the_question_ctrl_c_ends_it_as_anywhere_and_ctrl_d_is_no_answer(tmp_path, key, status, last):
    (tmp_path / "odd.csv").write_text("id,x\n" + "".join(f"{n},{n}.5\n" for n in range(20)), encoding="utf-8")
    ours, theirs = os.openpty()
    command = [*COMMAND, "init", "odd.csv"]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, preexec_fn=_own_terminal, **streams) as process:
        os.close(theirs)
        try:
            seen = b""
            while b"column of the answer" not in seen:
                seen += os.read(ours, 1000)
            _wait_until_it_listens(process)
            os.write(ours, key)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    os.close(ours)
    assert (process.returncode, last in error.decode()) == (status, True)


def _wait_until_it_listens(process):
    """A key that comes between the question and the reading of the answer is lost."""
    asleep = 0
    while asleep < 5:
        time.sleep(0.05)
        asleep = asleep + 1 if psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING else 0


def _own_terminal():
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
