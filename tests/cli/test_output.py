"""--quiet and --json: what goes to standard output and what to standard error, in every way that a command ends."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from commands import COMMAND, ENVIRONMENT, heft
from heft.cli import wants_json
from heft.cli.documents import ErrorDocument, EvalDocument, SweepDocument, TrainDocument, documents_page
from heft.cli.output import Output
from heft.results.records import read_records
from heft.results.summary import read_summaries
from tiny_recipe import write_recipe

ROOT = Path(__file__).parents[2]
STAGES = "{coarse: {method: lora, rank: 2, steps: 1}, fine: {method: reft, rank: 2, positions: l2, steps: 1}}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    done = heft("train", write_recipe(folder, STAGES, "allow: [labels_alike]"), "--output", folder / "run", "--json")
    assert done.returncode == 0, done.stderr
    return folder / "run", done


def test_the_committed_page_is_what_the_declarations_say_today():
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert page == documents_page(), "run: python -m heft.cli.documents > docs/json.md"


def test_train_prints_one_document_of_the_run_and_its_progress_beside_it(run):
    directory, done = run
    document = TrainDocument.model_validate_json(done.stdout, strict=True)
    assert document.stages == read_summaries(directory)
    assert Path(document.adapter, "heft.json").exists()
    assert document.seconds > sum(stage.seconds + stage.evaluation_seconds for stage in document.stages)
    assert "stage fine" in done.stderr


def test_eval_prints_one_document_with_the_figures_of_its_records(run, tmp_path):
    records = tmp_path / "r.jsonl"
    done = heft("eval", run[0] / "adapter", "--output", records, "--json", "--set", "task.max_length=60")
    document = EvalDocument.model_validate_json(done.stdout, strict=True)
    found = read_records(records)
    assert (document.n, document.accuracy) == (len(found), sum(r.correct for r in found) / len(found))
    assert document.records == str(records)
    assert document.prompts_cut == 10
    assert document.warnings == ["10 prompts were cut to 60 tokens"]
    assert document.labels == read_summaries(run[0])[-1].labels
    assert document.predictions.keys() == {str(index) for index in range(len(document.labels))}


def test_sweep_prints_one_document_of_its_results(tmp_path):
    path = write_recipe(tmp_path, STAGES, "sweep: {grid: {rank: [1, 2]}, evaluate_winner: true}")
    done = heft("sweep", path, "--output", tmp_path / "sweep", "--json")
    document = SweepDocument.model_validate_json(done.stdout, strict=True)
    written = json.loads((tmp_path / "sweep" / "results.json").read_text())
    assert [row.name for row in document.results] == [row["name"] for row in written["results"]]
    assert document.results[0].loss == written["results"][0]["loss"]
    assert [document.evaluation] == read_summaries(tmp_path / "sweep")
    assert Path(document.winner).is_file()


def test_quiet_leaves_the_last_lines(run, tmp_path):
    done = heft("train", run[0] / "recipe.yaml", "--output", tmp_path / "again", "--quiet")
    lines = done.stdout.splitlines()
    accuracies = ", ".join(f"{s.name} {100 * s.accuracy:.1f} %" for s in read_summaries(run[0])[:1])
    assert lines[0].startswith(f"accuracy on 10 evaluation examples: {accuracies} (")
    assert lines[1:] == [f"run: {tmp_path / 'again'}   adapter: {tmp_path / 'again' / 'adapter'}"]
    assert done.stderr == ""


def test_quiet_leaves_warnings_on_standard_error(run):
    done = heft("eval", run[0] / "adapter", "--quiet", "--set", "task.max_length=60")
    assert done.stdout.startswith("whereabouts: accuracy")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == "warning: 10 prompts were cut to 60 tokens\n"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (("train", "absent.yaml"), "input", "absent.yaml: no such file"),
        (("train", "debug", "--outptu", "x"), "usage", "No such option: --outptu"),
        (("train",), "usage", "Missing argument"),
        (("recipes", "absent"), "input", "no recipe 'absent'"),
        (("verify", "absent"), "input", "absent does not exist"),
        (("plan", "debug", "--set", "stages.fine.rank=0"), "input", "stages.fine.rank: expected"),
        (("recipes", "boolq", "--output", __file__), "input", "exists; give another file"),
    ],
)
def test_an_error_is_a_document_and_the_same_line_and_status_as_ever(arguments, kind, words, tmp_path):
    done, plain = heft(*arguments, "--json", cwd=tmp_path), heft(*arguments, cwd=tmp_path)
    error = ErrorDocument.model_validate_json(done.stdout, strict=True).error
    assert (error.kind, error.exit_status) == (kind, done.returncode)
    assert done.returncode == plain.returncode == 2
    assert words in error.message
    assert words in done.stderr


def test_a_defect_is_a_document_too_with_its_traceback_beside_it():
    code = (
        "import sys; sys.argv = ['heft', 'recipes', '--json']; import heft.recipe.ready as r;"
        "r.measurements = lambda: 1 / 0; from heft.cli import main; main()"
    )
    done = subprocess.run([COMMAND[0], "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert ErrorDocument.model_validate_json(done.stdout).error.kind == "defect"
    assert "ZeroDivisionError" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("words", [["recipes"], ["recipes", "--json"], ["train", "absent", "--json"]])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_pipe_that_closes_ends_a_command_without_a_traceback(words, buffered):
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": buffered}
    done = subprocess.run([*COMMAND, *words], stdout=writing, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr.count("\n") == ("absent" in words)  # the error's own line


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk without room is Linux's")
@pytest.mark.parametrize("words", [["recipes"], ["recipes", "--json"]])
@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_disk_without_room_for_the_output_is_said_in_a_line(words, buffered):
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": buffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    expected = "heft: standard output cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_a_document_is_json_in_an_encoding_that_lacks_its_characters():
    code = "import sys; sys.argv = ['heft', 'train', '\U0001f600\xe9', '--json']; from heft.cli import main; main()"
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([COMMAND[0], "-c", code], capture_output=True, text=True, env=environment)
    assert json.loads(done.stdout)["error"]["message"].startswith("\U0001f600\xe9: no such file")
    assert done.stderr.startswith("heft: \\ud83d\\ude00\\u00e9: no such file")


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_an_argument_that_is_no_text_is_refused(as_json):
    done = heft("recipes", b"caf\xe9".decode("utf-8", "surrogateescape"), *as_json)
    assert done.returncode == 2
    assert "the argument caf\\udce9 has bytes that are no UTF-8" in done.stderr


def test_a_failed_check_keeps_its_exit_status_and_its_document(run, tmp_path):
    done = heft("doctor", "--json")
    assert done.returncode in (0, 1)
    assert isinstance(json.loads(done.stdout), dict | list)


def test_what_follows_two_dashes_is_no_option():
    assert wants_json(["train", "r", "--json"])
    assert not wants_json(["generate", "a", "--", "--json"])


def test_warnings_are_kept_once_each_and_in_order(capsys):
    out = Output(as_json=True)
    for text in ("b", "a", "b"):
        out.reporter.warn(text)
    out.document(TrainDocument, run="r", adapter="a", stages=[])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["warnings"] == ["b", "a"]
    assert printed.err.splitlines() == ["warning: b", "warning: a", "warning: b"]
