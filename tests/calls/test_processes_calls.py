"""Two processes on one ReFT model, sharded by FSDP2 or in parallel, have the losses of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from calls.two_processes import STEPS, run
from heft.runtime import distributed

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """Mean losses of each way, from two processes."""
    out = tmp_path_factory.mktemp("two") / "losses.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(HERE / "two_processes.py"), "sharded,parallel"]
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    environment = {**os.environ, "LOSSES": str(out), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("way", ["sharded", "parallel"])
@pytest.mark.parametrize("positions", ["l2", "all"])
def test_two_processes_have_the_losses_of_one_step_after_step(way, positions, losses):
    alone = run("alone", positions)
    assert len(losses[f"{way} {positions}"]) == STEPS
    assert losses[f"{way} {positions}"] == pytest.approx(alone, abs=5e-6)  # 2**-21 of a loss of 6, and the steps'
    assert alone[-1] < alone[0] - 1e-3


FSDP_CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
use_cpu: true
num_processes: 2
num_machines: 1
machine_rank: 0
mixed_precision: 'no'
main_training_function: main
rdzv_backend: static
same_network: true
fsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP, fsdp_reshard_after_forward: true}
"""


@pytest.mark.long
def test_accelerate_launch_with_an_fsdp_config_shards_the_model(recipe_file, tmp_path):
    recipe = recipe_file("{fine: {method: reft, rank: 2, steps: 1, batch_size: 4}}")
    config, script = tmp_path / "fsdp.yaml", tmp_path / "launched.py"
    config.write_text(FSDP_CONFIG)
    script.write_text("from heft.cli import main\n\nmain()\n")
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "--main_process_port=0",
    ]
    command += [str(script), "train", str(recipe), "--output", str(tmp_path / "run"), "--set", "model.device=cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "2 processes, each with a shard of the model (FSDP2)" in said


def test_one_process_has_nothing_to_say_of_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert distributed.runs_as("fsdp2") is None
    assert not distributed.shards("fsdp2")


@pytest.mark.parametrize(
    ("setting", "configured", "shards"),
    [("auto", False, False), ("auto", True, True), ("ddp", True, False), ("fsdp2", False, True)],
)
def test_the_recipe_says_how_processes_share_the_model_and_auto_asks_accelerate(
    setting, configured, shards, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", str(configured).lower())
    assert distributed.shards(setting) == shards
    assert ("a shard of the model (FSDP2)" in distributed.runs_as(setting)) == shards
