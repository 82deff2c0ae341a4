"""Two processes on one run, against one process: the same losses, adapters and records, written once.

Row counts are odd on purpose: an epoch ends with a batch of one row, of which the second process gets none.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import heft
import resuming
from heft.recipe.files import load_recipe
from heft.results.records import read_records
from heft.runtime.reporter import Reporter
from tiny_recipe import write_recipe
from tolerance import assert_tensors, of_weights, trained_losses

COMPARED = ("coarse", "kept", "computed", "upper")
RATES = {"coarse": 2e-4, "kept": 1e-3, "computed": 1e-3, "upper": 1e-3}
REFT = "method: reft, rank: 2, steps: 4, batch_size: 6, learning_rate: 1e-3"
STAGES = (
    "{coarse: {method: lora, rank: 2, steps: 4, batch_size: 6, micro_batch_size: 2, learning_rate: 2e-4, holdout: 0.1,"
    " evaluate_every: 2},"
    f" kept: {{{REFT}, positions: l4, cache: memory}}, computed: {{{REFT}, positions: l4, cache: 'off'}},"
    f" upper: {{{REFT}, positions: all, layers: [2, 3], cache: disk}},"
    " dropped: {method: lora, rank: 2, epochs: 2, batch_size: 6, dropout: 0.5, holdout: 0.1}}"
)


def by_two(*arguments, code="from heft.cli import main; main()"):
    """The command line, or other code, begun in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    return subprocess.Popen(
        [*command, sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def finished(process):
    """A process that has come to its end, with what it printed."""
    stdout, stderr = process.communicate(timeout=280)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.fixture(scope="module", params=["ddp", pytest.param("fsdp2", marks=pytest.mark.long)])
def runs(request, tmp_path_factory):
    """A recipe's run in this process, the same by two, and what the two printed."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo, with which processes meet on a CPU")
    folder = tmp_path_factory.mktemp("processes")
    path = write_recipe(folder, STAGES, task="{name: whereabouts, people: 2, moves: 2, train_size: 19, eval_size: 6}")
    one = heft.train(load_recipe(path, output=str(folder / "one")))
    done = finished(by_two("train", path, "--output", folder / "two", "--set", f"distributed={request.param}"))
    assert done.returncode == 0, done.stderr
    return one.directory, folder / "two", done


def metrics(directory, stage):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


def figures(directory):
    return {stage["name"]: stage for stage in json.loads((directory / "summary.json").read_text())["stages"]}


@pytest.mark.parametrize("stage", COMPARED)
def test_every_step_has_the_loss_that_it_has_with_one_process(runs, stage):
    one, two = (metrics(directory, stage) for directory in runs[:2])
    assert [line["step"] for line in two] == [line["step"] for line in one]
    for mine, theirs in zip(two, one, strict=True):
        assert mine.keys() == theirs.keys()
        for key in theirs.keys() - {"stage"}:
            assert mine[key] == trained_losses(theirs[key], RATES[stage], 4), key


@pytest.mark.parametrize("stage", COMPARED)
def test_the_adapters_are_those_of_one_process(runs, stage):
    one, two = (load_file(d / "adapter" / stage / "adapter_model.safetensors") for d in runs[:2])
    assert_tensors(two, one, of_weights(RATES[stage], 4))


@pytest.mark.parametrize("stage", ["base", *COMPARED])
def test_the_evaluation_records_are_those_of_one_process(runs, stage):
    one, two = (read_records(d / "records" / f"{stage}.jsonl") for d in runs[:2])
    for mine, theirs in zip(two, one, strict=True):
        assert (mine.id, mine.prediction, mine.correct) == (theirs.id, theirs.prediction, theirs.correct)
        assert mine.log_likelihoods == trained_losses(theirs.log_likelihoods, 4 * max(RATES.values()), 4)


def test_each_row_goes_to_one_process_though_dropout_draws_different_numbers(runs):
    one, two = (figures(directory)["dropped"]["tokens"] for directory in runs[:2])
    assert one == two


def test_one_process_writes_and_speaks(runs):
    one, two, done = runs
    files = [{str(path.relative_to(d)) for path in d.rglob("*")} for d in (one, two)]
    assert files[0] == files[1]
    lines = done.stdout.splitlines()
    assert lines.count("stage coarse") == lines.count("importing torch and transformers") == 1
    assert sum(line.startswith("run: ") for line in lines) == 1
    assert sum(line in WAYS for line in lines) == 1


WAYS = {
    "2 processes, each with the whole model (DistributedDataParallel)": "ddp",
    "2 processes, each with a shard of the model (FSDP2)": "fsdp2",
}


def test_it_is_said_how_the_processes_share_the_model(runs, request):
    (said,) = (WAYS[line] for line in runs[2].stdout.splitlines() if line in WAYS)
    assert said == request.node.callspec.params["runs"]


class Ends(Reporter):
    """Ends a run after a step of its stage, of which there is no checkpoint yet."""

    def __init__(self, step):
        self._step = step

    def metrics(self, values):
        if values["step"] == self._step:
            raise KeyboardInterrupt


RESUMED = "{coarse: {method: lora, rank: 2, epochs: 2, batch_size: 6, learning_rate: 1e-3, holdout: 0.1}}"
ENDED = "import sys, heft; from runtime.test_distributed import Ends; heft.train(sys.argv[1], reporter=Ends(4))"


@pytest.mark.long
@pytest.mark.parametrize("setting", ["ddp", "fsdp2"])
def test_a_run_goes_on_with_another_number_of_processes_to_the_same_result(setting, tmp_path):
    rest = f"checkpoint: {{every_steps: 1}}\ndistributed: {setting}"
    task = "{name: whereabouts, people: 2, moves: 2, train_size: 19, eval_size: 6}"
    path = write_recipe(tmp_path, RESUMED, rest, task=task)
    whole = heft.train(load_recipe(path, output=str(tmp_path / "whole"))).directory
    text = path.read_text()
    path.write_text(f"{text}\noutput: {tmp_path / 'wider'}\n")
    with pytest.raises(KeyboardInterrupt):
        heft.train(path, reporter=Ends(4))
    wider = finished(by_two("train", path, "--resume"))
    assert wider.returncode == 0, wider.stderr
    assert "resuming stage coarse after step 3" in wider.stdout
    assert "begun with 1 process and resumed with 2" in " ".join((wider.stdout + wider.stderr).split())
    path.write_text(f"{text}\noutput: {tmp_path / 'narrower'}\n")
    assert finished(by_two(path, code=ENDED)).returncode != 0
    heft.train(path, resume=True)
    for name in ("wider", "narrower"):
        assert metrics(tmp_path / name, "coarse")[-1]["step"] == metrics(whole, "coarse")[-1]["step"]
        found, expected = (load_file(d / "adapter/coarse/adapter_model.safetensors") for d in (tmp_path / name, whole))
        assert_tensors(found, expected, of_weights(1e-3, 8))


@pytest.mark.long
def test_after_a_signal_two_processes_resume_from_the_same_step_to_the_same_result(runs, tmp_path):
    recipe = runs[0].parent / "recipe.yaml"
    train = ("train", recipe, "--output", tmp_path / "run", "--set", "stages.dropped.epochs=20")
    process = by_two(*train)
    metrics_file = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics_file.exists() and '"dropped"' in metrics_file.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert finished(process).returncode != 0
    kept = [each.name for each in (tmp_path / "run" / "checkpoints" / "4-dropped").glob("step-*")]
    assert len(kept) == 1
    done = finished(by_two(*train, "--resume"))
    assert done.returncode == 0, done.stderr
    assert f"resuming stage dropped after step {int(kept[0].partition('-')[2])}" in done.stdout
    whole = finished(by_two(*train[:3], tmp_path / "whole", *train[4:]))
    assert whole.returncode == 0, whole.stderr
    assert resuming.results(tmp_path / "run") == resuming.results(tmp_path / "whole")
