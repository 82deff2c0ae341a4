"""A base in a folder: found where it was, named where it is gone, given anew to every command and to `heft.load`."""

import re
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

import heft
import tiny
from commands import heft as run_heft
from heft.adapters.manifest import read_manifest
from heft.errors import HeftError
from heft.models.load import load_base, load_tokenizer
from heft.models.source import missing_folder
from heft.recipe.files import load_recipe
from heft.recipe.model import ModelSettings
from heft.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose base was given by a relative path with a space and an umlaut in it."""
    folder = tmp_path_factory.mktemp("wörk dir")
    base = folder / "möd el" / "tiny"
    tiny.tiny_model().save_pretrained(base)
    tiny.byte_tokenizer().save_pretrained(base)
    (folder / "recipe.yaml").write_text(
        "name: t\nmodel: {name: 'möd el/tiny', device: cpu}\n"
        "task: {name: whereabouts, train_size: 8, eval_size: 4}\n"
        "stages: {coarse: {method: lora, rank: 2, steps: 2, batch_size: 4, learning_rate: 1e-2}}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        heft.train(load_recipe("recipe.yaml"))
    return folder


@pytest.fixture
def moved(made, tmp_path):
    """A copy of the run, its base in another place than it was, and no longer where it was."""
    whole = shutil.copytree(made, tmp_path / "copy")
    manifest = whole / "runs" / "t" / "adapter" / "heft.json"
    manifest.write_text(manifest.read_text().replace(str(made), str(tmp_path / "gone")))
    (whole / "möd el" / "tiny").rename(tmp_path / "elsewhere")
    return whole / "runs" / "t" / "adapter", tmp_path / "elsewhere"


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[70, 71, 72]])).logits


def test_a_base_by_a_relative_path_is_found_from_anywhere(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, tokenizer = heft.load(made / "runs" / "t" / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(made / "möd el" / "tiny")
    assert not torch.equal(logits(model), logits(plain))
    assert tokenizer.padding_side == "left"
    assert verify(made / "runs" / "t" / "adapter", rows=2).ok


def test_a_base_that_is_gone_is_named_with_both_places_and_what_to_do(moved, monkeypatch):
    adapter, _ = moved
    monkeypatch.chdir(adapter)
    for use in (heft.load, verify):
        with pytest.raises(HeftError) as caught:
            use(adapter)
        told = str(caught.value)
        assert re.search(r"was in the folder .*/gone/möd el/tiny, which does not exist", told)
        assert f"neither does möd el/tiny seen from {adapter}" in told
        assert "--base PATH" in told
        assert "Repo id" not in told


def test_the_same_path_seen_from_here_is_tried_too(moved, monkeypatch, tmp_path):
    adapter, elsewhere = moved
    (tmp_path / "here" / "möd el").mkdir(parents=True)
    shutil.copytree(elsewhere, tmp_path / "here" / "möd el" / "tiny")
    monkeypatch.chdir(tmp_path / "here")
    model, _ = heft.load(adapter)
    assert list(model.peft_config) == [entry.name for entry in read_manifest(adapter).adapters]


def test_a_base_elsewhere_is_given_to_load_and_verify(moved, made):
    adapter, elsewhere = moved
    expected = logits(heft.load(made / "runs" / "t" / "adapter")[0])
    assert torch.equal(logits(heft.load(adapter, base=str(elsewhere))[0]), expected)
    assert verify(adapter, rows=2, base=str(elsewhere)).ok


def test_a_loaded_model_needs_no_recorded_name_where_its_tokenizer_is_at_hand(moved, made):
    adapter, elsewhere = moved
    expected = logits(heft.load(made / "runs" / "t" / "adapter")[0])
    own = AutoModelForCausalLM.from_pretrained(elsewhere)
    assert torch.equal(logits(heft.load(adapter, model=own)[0]), expected)
    nameless = tiny.tiny_model()
    tokenizer = tiny.byte_tokenizer()
    assert heft.load(adapter, model=nameless, tokenizer=tokenizer)[1] is tokenizer
    assert torch.equal(logits(nameless), expected)
    with pytest.raises(HeftError, match="--base PATH"):
        heft.load(adapter, model=tiny.tiny_model())


@pytest.mark.parametrize(
    "command",
    [
        ["eval"],
        pytest.param(["generate", "Where is Anna?"], marks=pytest.mark.long),
        pytest.param(["verify", "--rows", "2"], marks=pytest.mark.long),
    ],
)
def test_every_command_that_loads_an_adapter_takes_the_base_from_another_place(moved, command):
    adapter, elsewhere = moved
    failed = run_heft(command[0], adapter, *command[1:], cwd=adapter)
    assert failed.returncode == 2
    assert "--base PATH" in " ".join(failed.stderr.split())
    done = run_heft(command[0], adapter, *command[1:], "--base", elsewhere, cwd=adapter)
    assert (done.returncode, done.stderr) == (0, "")


def test_eval_still_takes_another_place_by_its_setting(moved):
    adapter, elsewhere = moved
    assert run_heft("eval", adapter, "--set", f"model.name={elsewhere}").returncode == 0


def test_another_model_at_that_place_is_refused(moved, tmp_path):
    adapter, _ = moved
    tiny.tiny_model("qwen2").save_pretrained(tmp_path / "other")
    tiny.byte_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(HeftError, match="it is another model"):
        heft.load(adapter, base=str(tmp_path / "other"))


@pytest.mark.parametrize(
    "name",
    ["./models/x", "../x", "/no/where", "models/a/b", "möd el/tiny", "~/no-such-model", "~no-such-user/x"],
)
def test_a_path_to_no_folder_is_told_so_without_a_word_of_hub_ids(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for load in (load_base, load_tokenizer):
        with pytest.raises(HeftError, match=rf"folder {re.escape(name)} does not exist") as caught:
            load(ModelSettings(name=name))
        assert "Repo id" not in str(caught.value)
        assert str(tmp_path) in str(caught.value) or name[0] in "/~"


def test_a_name_that_may_be_a_hub_id_is_told_that_there_is_no_such_folder_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert missing_folder("someone/model") is None
    with pytest.raises(HeftError, match=f"there is no folder someone/model in {re.escape(str(tmp_path))}"):
        load_tokenizer(ModelSettings(name="someone/model"))


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "weights").write_text("")
    with pytest.raises(HeftError, match="is a file; give the folder that holds config.json"):
        load_tokenizer(ModelSettings(name=str(tmp_path / "weights")))
