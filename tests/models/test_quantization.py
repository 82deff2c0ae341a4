"""Quantized bases, on a CPU: what trains on one is what trains on its weights made plain, before and after a save."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, GptOssConfig, GptOssForCausalLM

import tiny
from heft.adapters.attach import attach
from heft.errors import HeftError
from heft.models.load import load_base
from heft.models.quantization import with_own_quantization
from heft.recipe.files import recipe_of_values
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import LoraStage, ReftStage
from heft.run.train import train
from heft.verify import verify

bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
LORA = LoraStage(method="lora", rank=2, steps=1)
REFT = ReftStage(method="reft", rank=2, steps=1, positions="all")
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""The numbers of four bits in the formats of the Open Compute Project (MX): a sign, two exponent bits, one more."""
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
    for init in ("pissa", "olora"):
        other = recipe(tmp_path / "packed", tmp_path / "other")
        other.stages["coarse"] = other.stages["coarse"].model_copy(update={"init": init})
        with pytest.raises(HeftError, match=f"init: {init} needs unquantized weights.*; use init: default"):
            train(other)


@pytest.mark.parametrize("method", ["mxfp4", "fp8"])
def test_files_that_are_made_plain_are_not_quantized_again(folder, method):
    config = AutoConfig.from_pretrained(folder)
    config.quantization_config = {"quant_method": method}
    assert with_own_quantization(ModelSettings(name=str(folder)), config).quantization is None
    with pytest.raises(HeftError, match=f"are in {method} already; leave it out"):
        with_own_quantization(ModelSettings(name=str(folder), quantization="4bit"), config)


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors"])
def test_weights_of_another_method_are_refused_with_the_way_out(folder, method):
    config = AutoConfig.from_pretrained(folder)
    config.quantization_config = {"quant_method": method, "bits": 4}
    with pytest.raises(HeftError, match=f"quantized by {method}, which heft does not train on: give the model as it"):
        with_own_quantization(ModelSettings(name=str(folder)), config)


def marked(folder, tensors, **quantization):
    """Write tensors, and what they are, over a model's files."""
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantization}))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_files_in_fp8_are_made_plain(tmp_path, dtype):
    tiny.tiny_model("llama").save_pretrained(tmp_path)
    tiny.byte_tokenizer().save_pretrained(tmp_path)
    tensors, expected = load_file(tmp_path / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        scale = tensors[name].abs().max().reshape(1, 1) / 448
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = scale
        expected[name] = tensors[name].float() * scale
    marked(tmp_path, tensors, quant_method="fp8", activation_scheme="dynamic", weight_block_size=[128, 128])
    loaded = base(tmp_path, dtype=dtype)
    assert loaded.settings.quantization is None
    assert {p.dtype for p in loaded.model.parameters()} == {getattr(torch, dtype)}
    for name, weight in expected.items():
        assert torch.equal(loaded.model.get_parameter(name), weight.to(getattr(torch, dtype)))
    assert loaded.model(input_ids=IDS).logits.isfinite().all()


def test_files_in_mxfp4_are_made_plain_and_train(tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2}
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
    config = GptOssConfig(vocab_size=259, **sizes, **experts, **layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GptOssForCausalLM(config).save_pretrained(tmp_path / "base")
        tiny.byte_tokenizer().save_pretrained(tmp_path / "base")
        tensors, expected = load_file(tmp_path / "base" / "model.safetensors"), {}
        for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
            count, inputs, outputs = tensors.pop(name).shape
            blocks = torch.randint(0, 256, (count, outputs, inputs // 32, 16), dtype=torch.uint8)
            scales = torch.randint(118, 124, (count, outputs, inputs // 32), dtype=torch.uint8)
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            pairs = torch.stack([E2M1[(blocks & 15).long()], E2M1[(blocks >> 4).long()]], dim=-1)
            weight = pairs.flatten(-2) * torch.exp2(scales.float() - 127)[..., None]
            expected[name] = weight.reshape(count, outputs, inputs).transpose(1, 2)
    plain = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    marked(tmp_path / "base", tensors, quant_method="mxfp4", modules_to_not_convert=plain)
    loaded = base(tmp_path / "base")
    assert all(torch.equal(loaded.model.get_parameter(name), weight) for name, weight in expected.items())
    assert verify(train(recipe(tmp_path / "base", tmp_path / "run")).directory).ok


def test_what_quantization_needs_is_said(folder, monkeypatch):
    with pytest.raises(HeftError, match="made in memory, and is not quantized"):
        ModelSettings(name="random:tiny-llama", quantization="4bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("heft.models.quantization.find_spec", lambda name: None)
    with pytest.raises(HeftError, match="needs bitsandbytes, which is missing: pip install bitsandbytes"):
        base(folder, quantization="8bit")
