"""`heft verify` as a person uses it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from commands import heft
from tiny import forget_hashes
from tiny_recipe import write_recipe

STAGES = (
    "{coarse: {method: lora, rank: 2, steps: 2, batch_size: 4, learning_rate: 0.03}, "
    "fine: {method: reft, rank: 2, positions: l2, steps: 2, batch_size: 4, learning_rate: 0.1}}"
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify-command")
    done = heft("train", write_recipe(folder, STAGES), "--output", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run" / "adapter"


def test_the_lines_say_what_was_compared_with_its_numbers_and_the_status_is_0(adapter, tmp_path):
    done = heft("verify", adapter, "--rows", "2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "base: random:tiny-llama, float32 on cpu; adapters: coarse (lora), fine (reft)" in done.stdout
    assert "probe: 2 rows of the adapter's own task, whereabouts" in done.stdout
    for check in ("saved against loaded", "batch against single", "merged against unmerged", "coarse in plain PEFT"):
        assert f"ok     {check}: " in done.stdout
    assert "tolerance" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].endswith(" ok")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_gives_nan_fails_with_status_1_and_json_names_the_checks(adapter, tmp_path):
    forget_hashes(shutil.copytree(adapter, tmp_path / "adapter"))
    file = tmp_path / "adapter" / "fine" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[min(tensors)].view(-1)[0] = torch.nan
    save_file(tensors, file)
    done = heft("verify", tmp_path / "adapter", "--rows", "2", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    report = json.loads(done.stdout)
    assert report["ok"] is False
    failed = {finding["check"] for finding in report["findings"] if finding["state"] == "FAILED"}
    assert {"saved against loaded", "batch against single"} <= failed
    assert "coarse in plain PEFT" not in failed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["ADAPTER", "--rows", "1"], "at least 2"),
        (["ADAPTER", "--device", "tpu"], "expected one of cpu, cuda, mps"),
    ],
)
def test_bad_input_is_one_message_and_status_2(adapter, arguments, words):
    done = heft("verify", *[adapter if word == "ADAPTER" else word for word in arguments])
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
