"""Two processes share a model: what each holds, what is saved of it and set again, what comes back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from heft.errors import HeftError
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import Recipe
from heft.run.train import _require_shardable
from tiny import tiny_model

HERE = Path(__file__).parent
CLAIMS = (
    *("whole before", "slices", "own slices", "own slices were zero", "moments", "moments are slices"),
    *("written back", "moved", "base is untouched", "whole afterwards"),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What tests/models/two_shards.py saw in each process."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo, with which processes meet on a CPU")
    out = tmp_path_factory.mktemp("shards") / "found.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    path = os.pathsep.join([str(HERE.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command += [str(HERE / "two_shards.py"), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("claim", CLAIMS)
def test_each_process_has_its_own_slices_of_what_is_whole_outside(claim, found):
    assert [each[claim] for each in found] == [True, True]


def test_a_process_holds_half_of_the_blocks(found):
    assert [each["held"] for each in found] == pytest.approx([0.5, 0.5], abs=0.02)  # of an odd row one has more


def test_what_cannot_be_sharded_is_refused_all_at_once_with_the_way_out(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    tied = tiny_model("llama")
    tied.config.tie_word_embeddings = True
    stages = {
        "a": {"method": "lora", "epochs": 1, "optimizer": "adafactor"},
        "b": {"method": "lora", "epochs": 1, "trainable_tokens": ["x"]},
    }
    recipe = {"name": "t", "model": {"quantization": "4bit"}, "task": {"name": "whereabouts"}, "stages": stages}
    base = SimpleNamespace(model=tied, settings=ModelSettings(quantization="4bit"))
    with pytest.raises(HeftError) as error:
        _require_shardable(Recipe.model_validate({**recipe, "distributed": "fsdp2"}), base)
    for fault in ("model.quantization: 4bit", "stages.a.optimizer", "stages.b.trainable_tokens", "distributed: ddp"):
        assert fault in str(error.value)
    _require_shardable(Recipe.model_validate({**recipe, "distributed": "ddp"}), base)
