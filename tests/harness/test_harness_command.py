"""`heft eval --harness`: what it prints and writes, and what is refused, as one message."""

import json
import subprocess
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError

import lm_eval.tasks
import lm_eval.utils
import pytest

from harness.made_tasks import write_tasks
from heft.cli import main
from heft.harness.registration import harness_version
from heft.harness.tasks import HarnessTasks

MODEL = "random:tiny-llama"


@pytest.fixture
def heft(monkeypatch, capsys):
    """Runs a command line in this process: (exit status, standard output, standard error).

    The harness's own 15,000 tasks are not looked at, which takes seconds.
    """
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["heft", *map(str, words)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def test_several_tasks_are_printed_as_one_document_and_their_samples_written(heft, folder, tmp_path):
    words = ["eval", MODEL, "--harness", "own_boolq,own_piqa", "--include-path", folder, "--limit", 4, "--json"]
    words += ["--num-fewshot", 1, "--batch-size", 3, "--set", "model.dtype=float32"]
    status, output, errors = heft(*words, "--output", tmp_path / "deep" / "samples.jsonl")
    assert status == 0, errors
    document = json.loads(output)
    assert document["harness"] == harness_version()
    figures = {row["task"]: row for row in document["results"]}
    samples = [json.loads(line) for line in (tmp_path / "deep" / "samples.jsonl").read_text().splitlines()]
    assert [sample["task"] for sample in samples] == ["own_boolq"] * 4 + ["own_piqa"] * 4
    for task, figure in figures.items():
        assert (figure["metric"], figure["n"], figure["num_fewshot"]) == ("acc", 4, 1)
        of_task = [sample["acc"] for sample in samples if sample["task"] == task]
        assert figure["value"] == sum(of_task) / 4
    assert "Answer: " in samples[0]["arguments"][0][0], "an example with its answer stands before the question"


def test_a_yaml_file_is_a_task_and_its_figure_a_line(heft, folder):
    status, output, errors = heft("eval", MODEL, "--harness", folder / "own_texts.yaml", "--limit", 2)
    assert status == 0, errors
    assert "own_texts: bits_per_byte " in output
    assert output.splitlines()[-1].endswith(", 2 rows, 0-shot")


def test_generation_takes_what_is_given_for_it(heft, folder, tmp_path):
    words = ["eval", MODEL, "--harness", "own_generated", "--include-path", folder, "--quiet"]
    texts = {}
    for tokens in (1, 6):
        path = tmp_path / f"{tokens}.jsonl"
        status, _, errors = heft(*words, "--gen-kwargs", f"max_gen_toks={tokens}", "--output", path)
        assert status == 0, errors
        texts[tokens] = [json.loads(line)["resps"][0][0] for line in path.read_text().splitlines()]
    assert all(len(text.encode("utf-8", "surrogateescape")) <= 4 for text in texts[1])
    assert texts[1] != texts[6]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--harness", "no_such_task,own_boolq"], "has no task 'no_such_task'"),
        (["--harness", "own_bool"], "did you mean 'own_boolq'"),
        (["--harness", "own_boolq", "--task", "boolq", "--split", "test"], "--task, --split is of heft's own tasks"),
        (["--harness", "own_boolq", "--set", "task.passage=false"], "--set task.passage is of heft's own tasks"),
        (["--harness", "own_boolq", "--set", "model.nothing=1"], "model.nothing"),
        (["--harness", "own_generated", "--gen-kwargs", "top_pp=0.5,max_length=9"], "'top_pp' is no entry"),
        (["--harness", "own_boolq", "--apply-chat-template"], "chat template"),
        (["--harness", ","], "no task is named"),
    ],
)
def test_what_is_wrong_is_one_message_and_nothing_is_written(heft, folder, tmp_path, words, message):
    output = tmp_path / "samples.jsonl"
    status, _, errors = heft("eval", MODEL, *words, "--include-path", folder, "--output", output)
    assert status == 2
    assert message in errors.splitlines()[-1]
    assert not output.exists()


@pytest.fixture
def counted(folder, tmp_path):
    """A task of the rows of own_piqa that is counted by Python of its own, as `results` says."""

    def write(results):
        (tmp_path / "counting.py").write_text(f"import numpy as np\n\ndef count(doc, results):\n    return {results}\n")
        text = (folder / "own_piqa.yaml").read_text().partition("metric_list")[0].replace("own_piqa", "counted")
        metrics = [f"{{metric: {each}, aggregation: mean, higher_is_better: true}}" for each in ("acc", "other")]
        path = tmp_path / "counted.yaml"
        path.write_text(f"{text}process_results: !function counting.count\nmetric_list: [{', '.join(metrics)}]\n")
        return path

    return write


def no_constant(text):
    raise ValueError(f"{text} is no JSON")


def test_a_figure_that_is_no_number_is_null_and_one_of_numpy_is_a_figure(heft, counted, tmp_path):
    task, output = counted("{'acc': float('nan'), 'other': np.float32(0.25)}"), tmp_path / "samples.jsonl"
    status, document, errors = heft("eval", MODEL, "--harness", task, "--limit", 2, "--json", "--output", output)
    assert status == 0, errors
    figures = {row["metric"]: row for row in json.loads(document, parse_constant=no_constant)["results"]}
    assert (figures["acc"]["value"], figures["acc"]["stderr"]) == (None, None)
    assert (figures["other"]["value"], figures["other"]["stderr"]) == (0.25, 0.0)
    samples = [json.loads(line, parse_constant=no_constant) for line in output.read_text().splitlines()]
    assert [sample["acc"] for sample in samples] == [None, None]


def test_a_fault_of_a_tasks_own_code_is_said_as_one_and_a_defect_of_the_model_is_not(heft, counted, monkeypatch):
    task = counted("{'acc': doc['no such column'], 'other': 0.0}")
    status, _, errors = heft("eval", MODEL, "--harness", task, "--limit", 2)
    assert (status, errors.splitlines()[-1]) == (2, "heft: lm-evaluation-harness: KeyError: 'no such column'")

    def defect(*_, **__):
        raise KeyError("of heft")

    monkeypatch.setattr("heft.harness.model.score_requests", defect)
    with pytest.raises(KeyError, match="of heft"):
        heft("eval", MODEL, "--harness", task, "--limit", 2)


def test_options_of_the_harness_need_it(heft):
    status, _, errors = heft("eval", MODEL, "--task", "whereabouts", "--num-fewshot", 0, "--apply-chat-template")
    assert status == 2
    assert "--num-fewshot, --apply-chat-template goes with --harness TASKS" in errors


def test_an_adapter_of_another_kind_is_refused_before_a_base_is_looked_for(heft, folder, tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    status, _, errors = heft("eval", tmp_path / "lora", "--harness", "own_boolq", "--include-path", folder)
    assert status == 2
    assert "is not an adapter directory of heft: it has no heft.json, and is one adapter in PEFT's format" in errors


def test_without_the_harness_the_line_that_installs_it_is_named(heft, folder, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("heft.harness.registration.version", missing)
    status, _, errors = heft("eval", MODEL, "--harness", "own_boolq", "--include-path", folder)
    assert status == 2
    assert errors.splitlines()[-1].endswith("is not installed; install it with: pip install 'heft[harness]'")


def test_a_harness_that_lacks_what_is_used_is_named_with_all_that_it_lacks(heft, folder, monkeypatch):
    monkeypatch.delattr(lm_eval.utils, "make_disjoint_window")
    monkeypatch.delattr(lm_eval.utils, "get_rolling_token_windows")
    status, _, errors = heft("eval", MODEL, "--harness", "own_boolq", "--include-path", folder)
    assert status == 2
    assert (
        "lacks lm_eval.utils.get_rolling_token_windows, lm_eval.utils.make_disjoint_window; heft is made for" in errors
    )


def test_the_harnesss_own_tasks_are_known_by_name_group_and_pattern():
    tasks = HarnessTasks.__new__(HarnessTasks)
    tasks.manager = lm_eval.tasks.TaskManager()
    assert tasks._matching(["boolq", "arc_eas?"], None) == ["boolq", "arc_easy"]
    assert tasks._matching(["mmlu"], None) == ["mmlu"]


@pytest.mark.long
def test_the_harnesss_own_command_knows_the_model(folder, tmp_path):
    """In a process of its own, as people start it."""
    words = ["run", "--model", "heft", "--model_args", f"pretrained={MODEL}", "--tasks", "own_boolq"]
    words += ["--include_path", str(folder), "--limit", "2", "--output_path", str(tmp_path / "out")]
    command = [sys.executable, "-m", "heft.harness", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(written.read_text())
    assert found["config"]["base_model"] == MODEL
    assert found["results"]["own_boolq"]["sample_len"] == 2
    words[4] = f"pretrained={tmp_path / 'nothing'}"
    done = subprocess.run([*command[:3], *words], capture_output=True, text=True, timeout=280)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("heft: ")
