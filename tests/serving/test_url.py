"""`--url` of `heft eval`, `predict` and `verify`: a server gives the figures of a model that is loaded here."""

import json
import sys
import threading
import time

import pytest
from serve_making import LORA, TAIL, engine_of, make_run
from test_http import serving

from heft.cli import main
from heft.serving.client import ServerClient


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"), "two", f"{LORA}, {TAIL}")


@pytest.fixture(scope="module")
def url(run):
    engine = engine_of(run)
    with serving(engine) as port:
        yield f"http://127.0.0.1:{port}"
    engine.close()


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command line in this process: exit status, standard output, standard error."""

    def run_command(*words):
        monkeypatch.setattr(sys, "argv", ["heft", *map(str, words)])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        found = capsys.readouterr()
        return status, found.out, found.err

    return run_command


def _records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_eval_gives_the_records_of_a_model_that_is_loaded(command, run, url, tmp_path):
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert command("eval", run, "--output", here)[0] == 0
    status, out, _ = command("eval", run, "--output", there, "--url", url)
    assert status == 0
    assert "accuracy" in out
    assert len(_records(here)) == 10
    for one, other in zip(_records(here), _records(there), strict=True):
        likelihoods = one.pop("log_likelihoods"), other.pop("log_likelihoods")
        assert likelihoods[1] == pytest.approx(likelihoods[0], abs=1e-3)
        assert one == other


def test_eval_of_the_base_asks_for_the_base(command, run, url, tmp_path):
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    task = ("--task", "whereabouts", "--limit", "8", "--set", "model.dtype=float32")
    assert command("eval", "random:tiny-llama", *task, "--output", here)[0] == 0
    assert command("eval", "random:tiny-llama", *task, "--output", there, "--url", url)[0] == 0
    predictions = [[row["prediction"] for row in _records(path)] for path in (here, there)]
    assert predictions[0] == predictions[1]


def test_generated_answers_are_those_of_a_model_that_is_loaded(run, url):
    import heft
    from heft.data.encode import Encoder
    from heft.evaluation.evaluator import evaluate_examples
    from heft.models.limits import limits_of
    from heft.recipe.recipe import EvaluationSettings
    from heft.reft.tracker import positions_of
    from heft.runtime.reporter import Reporter
    from heft.serving.remote import RemoteModel, all_names, positions_in
    from heft.tasks import task_for
    from heft.tasks.example import generation_example

    model, tokenizer = heft.load(run)
    from heft.tasks.gsm8k import Gsm8kSettings

    task = task_for(Gsm8kSettings())
    examples = Encoder.of(tokenizer, task.settings, positions_of(model))(
        [generation_example(str(n), f"Question {n}: how many?", " 4", str(n)) for n in range(3)]
    )
    settings, reporter = EvaluationSettings(), Reporter()
    here = evaluate_examples(model, tokenizer, task, examples, settings, reporter)
    remote = RemoteModel(ServerClient(url, "two"), tokenizer, positions_in(run, all_names(run)), limits_of(model))
    there = remote.answers(task, examples, settings, reporter, "x")
    assert [answer.text for answer in there] == [record.text for record in here.records]
    assert remote._losses(examples, settings) == pytest.approx([record.loss for record in here.records], abs=1e-4)


def test_predict_gives_the_rows_of_a_model_that_is_loaded(command, run, url, tmp_path):
    from heft.tasks import task_for
    from heft.tasks.whereabouts import WhereaboutsSettings

    task = task_for(WhereaboutsSettings(eval_size=4))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for _, row in task.rows("eval")))
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    status, _, err = command("predict", run, rows, "--output", here)
    assert status == 0, err
    assert command("predict", run, rows, "--output", there, "--url", url)[0] == 0
    for one, other in zip(_records(here), _records(there), strict=True):
        assert one["prediction"] == other["prediction"]
        assert other["probability"] == pytest.approx(one["probability"], abs=1e-4)


def test_verify_finds_the_server_equal_for_the_base_and_every_stage(command, run, url):
    status, out, _ = command("verify", run, "--url", url, "--json")
    report = json.loads(out)
    assert status == 0, report
    names = {finding["check"].split(" ")[0] for finding in report["findings"]}
    assert names == {"random:tiny-llama", "two:coarse", "two"}
    assert len(report["findings"]) == 12
    assert all(finding["of"] in (None, 4 * 16) for finding in report["findings"])


def test_verify_finds_a_server_with_another_run_under_the_name(command, run, tmp_path):
    other = make_run(tmp_path, "two", f"{LORA}, {TAIL}", seed=7)
    engine = engine_of(other)
    with serving(engine) as port:
        status, out, _ = command("verify", run, "--url", f"http://127.0.0.1:{port}")
    engine.close()
    assert status == 1
    assert "FAILED two alone: greedy tokens" in out
    assert "ok     random:tiny-llama alone: log-likelihoods" in out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--served-model-name", "x"], "goes with --url"),
        (["--url", "127.0.0.1:1"], "expected one such as"),
        (["--url", "http://127.0.0.1:1"], "no server of heft answers"),
        (["--url", "SERVER", "--served-model-name", "x"], "it has random:tiny-llama, two, two:coarse"),
    ],
)
def test_what_is_wrong_with_a_server_is_said(command, run, url, words, reason):
    status, _, err = command("eval", run, *(url if word == "SERVER" else word for word in words))
    assert status == 2
    assert reason in err


@pytest.mark.parametrize(("size", "parts", "at_once"), [(64, 64, 256), (200, 128, 256), (4, 4, 32)])
def test_a_client_asks_for_no_more_at_once_than_a_server_takes(size, parts, at_once, monkeypatch):
    """Else its own requests would fill the queue, and those that are sent away give up while others compute."""
    lock, running, most, sizes = threading.Lock(), [0], [0], []

    def answer(self, path, body):
        if body is None:
            return {"data": []}
        count = len(body["input"])
        with lock:
            sizes.append(count)
            running[0] += count
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= count
        return {"data": [{"log_likelihoods": [0.0]}] * count}

    monkeypatch.setattr(ServerClient, "_ask", answer)
    found = ServerClient("http://127.0.0.1:1", "m").log_likelihoods([((1,), ((2,),))] * 640, size)
    assert (len(found), max(sizes), most[0]) == (640, parts, at_once)
