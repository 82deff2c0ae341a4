"""Adapter directories: written, read back to the bit, and refused where they do not fit."""

import json
import shutil
import subprocess
import sys

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import heft
import tiny
from heft.adapters.attach import adapter_parameters, attach, finish
from heft.adapters.manifest import FORMAT, AdapterEntry
from heft.adapters.methods import adapters_of
from heft.builtin import TINY, tiny_llama
from heft.errors import HeftError
from heft.models.fingerprints import tokenizer_fingerprint
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import JointStage, LoraStage, ReftStage
from saving import save_adapters

IDS = torch.arange(3, 40)[None]
STAGES = {
    "coarse": LoraStage(method="lora", rank=2, dora=True, steps=1),
    "fine": ReftStage(method="reft", rank=2, positions="f2+l3", tied=False, activation="silu", steps=1),
    "both": JointStage(method="joint", reft={"positions": "all", "intervention": "direft"}, steps=1),
    "last": LoraStage(method="lora", rank=4, init="pissa", steps=1),
}


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def tensors_of(model):
    """All adapter tensors of a model, by adapter name and key."""
    return {
        f"{name}/{key}": value
        for name in model.peft_config
        for key, value in peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False).items()
    }


def entry(part, stage):
    return AdapterEntry(name=part.name, method=part.method, stage=stage)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An adapter directory with every kind of stage, and the model that it was written from."""
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    entries = []
    torch.manual_seed(3)
    for name, stage in STAGES.items():
        attached = attach(base.model, name, stage)
        with torch.no_grad():
            for parameter in adapter_parameters(base.model, attached.names).values():
                parameter.add_(0.05 * torch.randn_like(parameter))
        finish(base.model, attached)
        entries += [AdapterEntry(name=p.name, method=p.method, stage=name) for p in adapters_of(name, stage)]
    directory = save_adapters(tmp_path_factory.mktemp("run") / "adapter", base, entries)
    return directory, base.model


def test_load_gives_back_every_tensor_and_the_logits_to_the_bit(trained):
    directory, model = trained
    loaded, tokenizer = heft.load(directory)
    ours, theirs = tensors_of(model), tensors_of(loaded)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.equal(logits(loaded), logits(tiny_llama()))
    assert not any(p.requires_grad for p in loaded.parameters())
    assert tokenizer.decode(tokenizer("x")["input_ids"]) == "x"


def test_load_takes_a_base_that_is_there_already(trained):
    directory, model = trained
    loaded, _ = heft.load(directory, model=tiny_llama().eval())
    assert torch.equal(logits(loaded), logits(model))


def test_another_base_model_is_refused(trained):
    other = tiny_llama()
    with torch.no_grad():
        other.lm_head.weight.add_(0.1)
    with pytest.raises(HeftError, match="it is another model"):
        heft.load(trained[0], model=other)


def test_a_lora_folder_loads_in_peft_where_heft_was_never_imported(trained, tmp_path):
    directory, _ = trained
    expected = peft.PeftModel.from_pretrained(tiny_llama().eval(), str(directory / "coarse"))
    torch.save({"state": tiny_llama().state_dict(), "logits": logits(expected)}, tmp_path / "expected.pt")
    tiny_llama().save_pretrained(tmp_path / "base")
    script = f"""
import sys, torch, peft
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained({str(tmp_path / "base")!r}).eval()
model = peft.PeftModel.from_pretrained(base, {str(directory / "coarse")!r})
expected = torch.load({str(tmp_path / "expected.pt")!r})["logits"]
with torch.no_grad():
    assert torch.equal(model(torch.arange(3, 40)[None]).logits, expected)
assert "heft" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_each_folder_loads_alone_in_peft(trained):
    directory, _ = trained
    for name in ("coarse", "fine", "both_lora", "both_reft", "last"):
        base = tiny_llama().eval()
        alone = logits(base)
        model = peft.PeftModel.from_pretrained(base, str(directory / name), adapter_name=name)
        assert not torch.equal(logits(model), alone), f"{name} has no effect"


def test_tensors_that_do_not_fit_are_all_named_with_their_shapes(trained, tmp_path):
    directory = tmp_path / "adapter"
    tiny.forget_hashes(shutil.copytree(trained[0], directory))
    file = directory / "fine" / "adapter_model.safetensors"
    tensors = load_file(file)
    first, second, *_ = sorted(tensors)
    tensors["extra"] = tensors.pop(first)
    tensors[second] = torch.zeros(3, 3)
    save_file(tensors, file)
    with pytest.raises(HeftError, match=r"does not fit its base model \(3 tensors\)") as error:
        heft.load(directory)
    assert f"{first} is missing" in str(error.value)
    assert "extra is not expected" in str(error.value)
    assert f"{second} is [3, 3], expected [" in str(error.value)


def test_a_folder_that_is_no_adapter_directory_says_what_is(tmp_path):
    with pytest.raises(HeftError, match=r"no heft\.json"):
        heft.load(tmp_path)
    (tmp_path / "heft.json").write_text("{")
    with pytest.raises(HeftError, match="cannot be read"):
        heft.load(tmp_path)


def test_a_later_format_is_refused(trained, tmp_path):
    content = json.loads((trained[0] / "heft.json").read_text())
    (tmp_path / "heft.json").write_text(json.dumps(content | {"format": FORMAT + 1}))
    with pytest.raises(HeftError, match=f"has format {FORMAT + 1}; this version of heft reads format {FORMAT}"):
        heft.load(tmp_path)


def test_a_missing_file_is_named(trained, tmp_path):
    (tmp_path / "heft.json").write_text((trained[0] / "heft.json").read_text())
    with pytest.raises(HeftError, match=r"lacks adapter_config\.json, adapter_model\.safetensors"):
        heft.load(tmp_path)


def test_an_adapter_for_another_shape_of_model_is_refused(trained):
    with pytest.raises(HeftError, match="another model"):
        heft.load(trained[0], model=tiny.tiny_model())


def scale_up(path):
    path.write_text(path.read_text().replace('"lora_alpha": 16', '"lora_alpha": 160'))


def flip_last_bit(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("file", "change"), [("adapter_config.json", scale_up), ("adapter_model.safetensors", flip_last_bit)]
)
def test_an_altered_file_is_named_unless_its_hash_is_taken_out(trained, tmp_path, file, change):
    directory = shutil.copytree(trained[0], tmp_path / "adapter")
    change(directory / "coarse" / file)
    assert (directory / "coarse" / file).read_bytes() != (trained[0] / "coarse" / file).read_bytes()
    with pytest.raises(HeftError, match=f"coarse/{file} is not what was written: its SHA-256"):
        heft.load(directory)
    heft.load(tiny.forget_hashes(directory))


def test_another_tokenizer_than_the_one_trained_with_is_refused(trained, tmp_path):
    directory = shutil.copytree(trained[0], tmp_path / "adapter")
    manifest = json.loads((directory / "heft.json").read_text())
    other = tokenizer_fingerprint(tiny.byte_tokenizer(), False)
    (directory / "heft.json").write_text(json.dumps(manifest | {"tokenizer_fingerprint": other}))
    heft.load(directory)
    (directory / "heft.json").write_text(json.dumps(manifest | {"tokenizer_fingerprint": other[::-1]}))
    with pytest.raises(HeftError, match="were trained with another tokenizer"):
        heft.load(directory)


def test_the_bases_revision_is_in_each_adapters_own_file(trained, tmp_path):
    """PEFT's auto classes load the base at that revision, and at the default branch without it."""
    directory, _ = trained
    copy = shutil.copytree(directory, tmp_path / "copy")
    values = json.loads((copy / "heft.json").read_text())
    values["model"] |= {"revision": "v7", "name": "org/base"}
    (copy / "heft.json").write_text(json.dumps(values))
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    model, _ = heft.load(copy, model=base.model, tokenizer=base.tokenizer)
    model.save_pretrained(tmp_path / "again")
    for name in model.peft_config:
        assert peft.PeftConfig.from_pretrained(tmp_path / "again" / name).revision == "v7"
