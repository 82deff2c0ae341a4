"""A run's directory and its adapter directory stand for each other, in every command and in Python."""

import json

import pytest
import torch

import heft
from commands import heft as command
from heft.adapters.places import adapter_directory, run_directory
from heft.compare.inputs import read_inputs
from heft.errors import HeftError
from heft.verify.subject import open_subject
from tiny_recipe import write_recipe

STAGES = "{fine: {method: reft, rank: 2, positions: l1, steps: 1, batch_size: 4}}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    return heft.train(write_recipe(folder, STAGES, f"output: {folder / 'run'}")).directory


def test_each_is_found_from_the_other(run, monkeypatch):
    for given in (run, run / "adapter", str(run)):
        assert adapter_directory(given).samefile(run / "adapter")
        assert run_directory(given).samefile(run)
    monkeypatch.chdir(run / "adapter")
    assert run_directory(".").samefile(run)
    assert adapter_directory("..").samefile(run / "adapter")


def test_the_message_says_what_was_found_and_what_was_expected(run, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/study.json").write_text("{}")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/manifest.json").write_text("{}")
    for given, told in (
        (tmp_path / "nowhere", "nowhere does not exist; expected the directory of a run"),
        (run / "summary.json", "summary.json is a file; expected the directory of a run"),
        (run / "adapter/fine", "fine is not an adapter directory of heft.*in PEFT's format.*adapter/heft.json"),
        (tmp_path / "s", "it holds a study; expected one of its runs"),
        (tmp_path / "begun", "holds a run without an adapter.*--resume"),
        (run / "records", "records is not an adapter directory: it has no heft.json; expected the directory of a run"),
    ):
        with pytest.raises(HeftError, match=told):
            adapter_directory(given)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "heft.json").write_text("{}")
    with pytest.raises(HeftError, match="alone is an adapter directory without its run"):
        run_directory(alone)


def test_a_search_and_a_sweep_without_an_adapter_say_where_one_comes_from(tmp_path):
    search, swept = tmp_path / "search", tmp_path / "swept"
    for folder, manifest in ((search, {"tune": {"budget": "30m"}}), (swept, {})):
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(HeftError, match="a search of heft tune without .*`heft tune RECIPE --budget 30m --resume`"):
        adapter_directory(search)
    (search / "best.yaml").write_text("")
    with pytest.raises(HeftError, match=f"so no adapter: `heft train {search / 'best.yaml'}`"):
        adapter_directory(search)
    (search / "run").mkdir()
    (search / "run/manifest.json").write_text("{}")
    with pytest.raises(HeftError, match=f"its adapters are those of its run: give {search / 'run'}$"):
        adapter_directory(search)
    write_recipe(swept, "{fine: {method: reft}}", "sweep: {grid: {rank: [1, 2]}}")
    with pytest.raises(HeftError, match="holds a sweep without an adapter.*`heft sweep RECIPE --overwrite`"):
        adapter_directory(swept)


def test_loading_verifying_and_comparing_take_either(run):
    ids = torch.tensor([[70, 80, 90]])
    first, second = (heft.load(given)[0](ids).logits for given in (run, run / "adapter"))
    assert torch.equal(first, second)
    assert open_subject(run).directory == run / "adapter"
    assert [arm.name for arm in read_inputs([run / "adapter"]).arms] == [arm.name for arm in read_inputs([run]).arms]


def test_the_commands_take_either(run, tmp_path):
    for given in (run, run / "adapter"):
        records = tmp_path / f"{given.name}.jsonl"
        done = command("eval", given, "--output", records)
        assert done.returncode == 0, done.stderr
        assert len(records.read_text().splitlines()) == 10
        for words in (["generate", given, "Where?", "--max-new-tokens", "2"], ["compare", given, "--json"]):
            done = command(*words)
            assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["arms"]
        assert command("report", given, "--output", tmp_path / f"{given.name}.html").returncode == 0
