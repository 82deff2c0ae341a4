"""Base models that would run code: pickled weights, remote code, adapters in a base's clothes."""

import json
import os
import threading
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from heft.builtin import byte_tokenizer, tiny_llama
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from pickles import write_pickle


@pytest.fixture
def folder(tmp_path):
    """A local base model that loads, and where a pickle would leave its mark."""
    folder = tmp_path / "base"
    tiny_llama().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def settings(folder, **more):
    return ModelSettings(name=str(folder), device="cpu", **more)


def test_a_folder_of_safetensors_loads(folder):
    assert load_base(settings(folder)).model.num_parameters() == tiny_llama().num_parameters()


@pytest.mark.parametrize("from_home", [False, True])
def test_weights_that_are_pickled_only_are_never_opened(folder, tmp_path, monkeypatch, from_home):
    (folder / "model.safetensors").unlink()
    write_pickle(folder / "pytorch_model.bin", tmp_path / "mark")
    monkeypatch.setenv("HOME", str(folder.parent))
    with pytest.raises(HeftError, match=r"a pickle can run any code .*(?s:.)*safetensors"):
        load_base(settings(f"~/{folder.name}" if from_home else folder))
    assert not (tmp_path / "mark").exists()


def test_models_that_are_loaded_in_two_threads_leave_torchs_load_as_it_was(folder, monkeypatch):
    own, load = torch.load, AutoModelForCausalLM.from_pretrained
    second_is_within, first_is_out = threading.Event(), threading.Event()

    def slow(*args, **options):
        if threading.current_thread().name == "second":
            second_is_within.set()
            first_is_out.wait(2)
        else:
            second_is_within.wait(0.5)
        assert torch.load is not own
        return load(*args, **options)

    def first():
        load_base(settings(folder))
        first_is_out.set()

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", slow)
    monkeypatch.delenv("DISABLE_SAFETENSORS_CONVERSION", raising=False)
    second = threading.Thread(target=load_base, args=[settings(folder)], name="second")
    threads = [threading.Thread(target=first), second]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert torch.load is own
    assert "DISABLE_SAFETENSORS_CONVERSION" not in os.environ


@pytest.mark.parametrize("how", ["config", "index"])
def test_a_pickle_that_a_config_or_an_index_names_is_not_opened_either(folder, tmp_path, how):
    if how == "config":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"transformers_weights": "adapter_model.bin"}))
        write_pickle(folder / "adapter_model.bin", tmp_path / "mark")
    else:
        (folder / "model.safetensors").unlink()
        index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "shard.bin"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        write_pickle(folder / "shard.bin", tmp_path / "mark")
    read = torch.load
    with pytest.raises(HeftError, match="a pickle can run any code"):
        load_base(settings(folder))
    assert not (tmp_path / "mark").exists()
    assert torch.load is read


def test_an_adapter_is_no_base_model(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x/y"}))
    with pytest.raises(HeftError, match="has an adapter in it"):
        load_base(settings(folder))


def test_code_that_comes_with_a_model_does_not_run_unless_it_is_allowed(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "stranger", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    with pytest.raises(HeftError, match="set model.trust_remote_code: true"):
        load_base(settings(folder))
    assert not (tmp_path / "mark").exists()
