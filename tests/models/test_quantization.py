"""Quantized bases, on a CPU: what trains on one is what trains on its weights made plain, before and after a save."""

import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

import tiny
from heft.adapters.attach import attach
from heft.errors import HeftError
from heft.models.load import load_base
from heft.models.quantization import with_own_quantization
from heft.recipe.files import recipe_of_values
from heft.recipe.recipe import LoraStage, ModelSettings, ReftStage
from heft.run.train import train
from heft.verify import verify

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
LORA = LoraStage(method="lora", rank=2, steps=1)
REFT = ReftStage(method="reft", rank=2, steps=1, positions="all")
IDS = torch.arange(3, 43)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    tiny.tiny_model("llama").save_pretrained(path)
    tiny.byte_tokenizer().save_pretrained(path)
    return path


def base(folder, **settings):
    return load_base(ModelSettings(name=str(folder), device="cpu", **{"dtype": "float32", **settings}))


def plain_weight(module):
    """A quantized module's weight as numbers, by bitsandbytes' own way back (4 bits), or by its scales (8 bits)."""
    if isinstance(module, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    return module.weight.data.float() * module.weight.SCB[:, None] / 127


def gradients(model):
    torch.manual_seed(0)
    attach(model, "coarse", LORA)
    attach(model, "fine", REFT)
    trained = {name: p for name, p in model.named_parameters() if "lora" in name or "reft" in name}
    for p in trained.values():
        p.data.normal_(0, 0.1)
        p.requires_grad_(True)
    model(input_ids=IDS, labels=IDS, prompt_lengths=torch.tensor([IDS.shape[1]])).loss.backward()
    return torch.cat([p.grad.flatten() for p in trained.values() if p.grad is not None])


@pytest.mark.parametrize(("quantization", "apart"), [("4bit", 1e-5), ("8bit", 0.15)])  # 8 bits round what comes in too
def test_gradients_are_those_of_the_plain_weights_also_after_a_pass_without_any(folder, quantization, apart):
    model, other = base(folder, quantization=quantization).model, base(folder).model
    quantized = dict(model.named_modules())
    places = [(name, module) for name, module in other.named_modules() if isinstance(module, torch.nn.Linear)]
    packed = [name for name, _ in places if not quantized[name].weight.is_floating_point()]
    assert len(packed) == len(places) - 1  # all but the head
    for name, module in places:
        if name in packed:
            module.weight.data = plain_weight(quantized[name])
    with torch.no_grad():
        model(input_ids=IDS)
    found, expected = gradients(model), gradients(other)
    assert (found - expected).norm() <= apart * expected.norm()
    assert expected.norm() > 0


def recipe(folder, output, **model):
    return recipe_of_values(
        {
            "name": "q",
            "model": {"name": str(folder), "device": "cpu", "dtype": "float32", **model},
            "task": {"name": "whereabouts", "people": 2, "moves": 3, "train_size": 8, "eval_size": 4},
            "stages": {
                "coarse": {"method": "lora", "rank": 2, "steps": 2, "batch_size": 4},
                "fine": {"method": "reft", "rank": 2, "positions": "l2", "steps": 2, "batch_size": 4},
            },
        },
        output=output,
    )


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_checkpoint_that_is_quantized_already_is_known_as_such(folder, quantization, tmp_path, capfd):
    how = BitsAndBytesConfig(**{f"load_in_{quantization}": True})
    AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=how, device_map={"": "cpu"}, dtype=torch.float32
    ).save_pretrained(tmp_path / "packed")
    tiny.byte_tokenizer().save_pretrained(tmp_path / "packed")
    run = train(recipe(tmp_path / "packed", tmp_path / "run"))
    report = verify(run.directory)
    assert report.ok, [finding for finding in report.findings if finding.state == "FAILED"]
    assert "quantized" in next(f.compared for f in report.findings if f.check == "merged against unmerged")
    assert f'"quantization": "{quantization}"' in (run.directory / "adapter" / "heft.json").read_text()
    assert "MatMul8bitLt" not in capfd.readouterr().err
    with pytest.raises(HeftError, match=f"are in {quantization} already"):
        base(tmp_path / "packed", quantization="8bit" if quantization == "4bit" else "4bit")
    pissa = recipe(tmp_path / "packed", tmp_path / "other")
    pissa.stages["coarse"] = pissa.stages["coarse"].model_copy(update={"init": "pissa"})
    with pytest.raises(HeftError, match=f"pissa needs unquantized weights, and the base is in {quantization}"):
        train(pissa)


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors"])
def test_weights_of_another_method_are_refused_with_the_way_out(folder, method):
    config = AutoConfig.from_pretrained(folder)
    config.quantization_config = {"quant_method": method, "bits": 4}
    with pytest.raises(HeftError, match=f"quantized by {method}, which heft does not train on: give the model as it"):
        with_own_quantization(ModelSettings(name=str(folder)), config)


def test_what_quantization_needs_is_said(folder, monkeypatch):
    with pytest.raises(HeftError, match="made in memory, and is not quantized"):
        ModelSettings(name="random:tiny-llama", quantization="4bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("heft.models.quantization.find_spec", lambda name: None)
    with pytest.raises(HeftError, match="needs bitsandbytes, which is missing: pip install bitsandbytes"):
        base(folder, quantization="8bit")
