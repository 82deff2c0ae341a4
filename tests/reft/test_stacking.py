"""LoRA beneath ReFT: both act, both reload, and the LoRA reloads without heft (mistakes 4 and 9 of others)."""

import subprocess
import sys

import pytest
import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    convert_to_lora,
    get_peft_model,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file

from heft.reft import ReftConfig
from reft.support import logits, perturb, reft_layers, reft_parameters, token_ids
from tiny import tiny_model

IDS = token_ids(2, 8)


def lora_config(**kwargs) -> LoraConfig:
    return LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **kwargs
    )


def with_lora():
    torch.manual_seed(1)
    return inject_adapter_in_model(lora_config(), tiny_model(), adapter_name="coarse").eval()


def stacked(trained: bool = True, site: str = "block"):
    config = ReftConfig(task_type="CAUSAL_LM", positions="f2+l2", site=site)
    torch.manual_seed(2)
    model = get_peft_model(with_lora(), config, adapter_name="fine").eval()
    return perturb(model) if trained else model


@pytest.mark.parametrize("site", ["block", "attention", "mlp"])
def test_mistake_9_lora_beneath_and_reft_above_both_act(site):
    base, lora, both = logits(tiny_model(), IDS), logits(with_lora(), IDS), logits(stacked(site=site), IDS)
    assert not torch.allclose(lora, base, atol=1e-2)
    assert not torch.allclose(both, lora, atol=1e-2)
    reft_only = get_peft_model(tiny_model(), ReftConfig(positions="f2+l2", site=site), adapter_name="fine").eval()
    source = reft_parameters(stacked(site=site))
    for name, parameter in reft_parameters(reft_only).items():
        parameter.data.copy_(source[name])
    assert not torch.allclose(both, logits(reft_only, IDS), atol=1e-2)


def test_a_fresh_reft_starts_from_the_model_that_lora_left():
    assert torch.equal(logits(stacked(trained=False), IDS), logits(with_lora(), IDS))


@pytest.mark.parametrize("order", ["lora_first", "reft_first"])
def test_mistake_4_one_save_writes_two_folders_and_both_reload_in_either_order(order, tmp_path):
    model = stacked()
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["coarse", "fine"]
    folders = ["coarse", "fine"] if order == "lora_first" else ["fine", "coarse"]
    loaded = tiny_model()
    for folder in folders:
        loaded = loaded_onto(loaded, tmp_path / folder, folder)
    assert torch.allclose(logits(loaded, IDS), logits(model, IDS), atol=1e-6)


def loaded_onto(model, folder, name):
    """Put a saved adapter onto a model that may carry one already, as `inject` and a plain load of tensors do."""
    model = inject_adapter_in_model(PeftConfig.from_pretrained(folder), model, adapter_name=name)
    result = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"), adapter_name=name)
    assert not result.unexpected_keys
    return model.eval()


@pytest.mark.long
def test_mistake_4_the_coarse_folder_loads_where_heft_was_never_imported(tmp_path):
    model = stacked()
    model.save_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path / "base")
    torch.save(IDS, tmp_path / "ids.pt")
    script = (
        "import sys, torch; from pathlib import Path; from peft import PeftModel;"
        " from transformers import AutoModelForCausalLM as M; p = Path(sys.argv[1]); torch.set_num_threads(1);"
        " m = PeftModel.from_pretrained(M.from_pretrained(p / 'base'), p / 'coarse').eval();"
        " torch.save(m(input_ids=torch.load(p / 'ids.pt')).logits.detach(), p / 'logits.pt');"
        " assert 'heft' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "missing" not in run.stderr.lower()
    assert torch.allclose(torch.load(tmp_path / "logits.pt"), logits(with_lora(), IDS), atol=1e-6)


def test_the_fine_folder_holds_no_lora_tensor_and_the_coarse_one_no_reft_tensor(tmp_path):
    stacked().save_pretrained(tmp_path)
    for folder, own in (("coarse", "lora_"), ("fine", "reft_")):
        with safe_open(tmp_path / folder / "adapter_model.safetensors", "pt") as file:
            assert all(f".{own}" in key for key in file.keys())  # noqa: SIM118


def test_disable_adapter_switches_both_off():
    model = stacked()
    with model.disable_adapter():
        assert torch.equal(logits(model, IDS), logits(tiny_model(), IDS))


def test_merging_the_lora_beneath_changes_no_logit_and_unmerging_takes_it_out_again():
    model = stacked()
    before = logits(model, IDS)
    model.merge_adapter(adapter_names=["coarse"])
    assert any(module.merged for module in model.modules() if isinstance(module, LoraLayer))
    assert torch.allclose(logits(model, IDS), before, atol=1e-5)
    model.unmerge_adapter()
    assert torch.allclose(logits(model, IDS), before, atol=1e-5)


@pytest.mark.parametrize("names", [None, ["fine"], ["coarse", "fine"]])
def test_refusing_to_merge_reft_leaves_the_lora_beneath_unmerged(names):
    model = stacked()
    with pytest.raises(ValueError, match="cannot be merged"):
        model.merge_adapter(adapter_names=names)
    assert not any(module.merged for module in model.modules() if isinstance(module, LoraLayer))


def test_lora_can_be_added_beneath_a_reft_that_is_already_there():
    model = perturb(inject_adapter_in_model(ReftConfig(positions="f2+l2"), tiny_model(), adapter_name="fine")).eval()
    reft_only = logits(model, IDS)
    model = inject_adapter_in_model(lora_config(), model, adapter_name="coarse").eval()
    assert len(reft_layers(model)) == 3
    for layer in reft_layers(model):
        assert layer.active_adapters == ["fine"]
    assert not torch.allclose(logits(model, IDS), reft_only, atol=1e-2)


def test_joint_training_moves_lora_and_reft():
    model = stacked(trained=False).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".reft_" in name or ".lora_" in name)
    labels = IDS.clone()
    labels[:, :5] = -100
    model(input_ids=IDS, labels=labels).loss.backward()
    for kind in (".lora_", ".reft_"):
        assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if kind in name)


def test_generation_with_both_is_the_same_cached_and_not():
    model = stacked()
    cached = model.generate(input_ids=IDS, max_new_tokens=5, do_sample=False)
    assert torch.equal(cached, model.generate(input_ids=IDS, max_new_tokens=5, do_sample=False, use_cache=False))


def test_a_saved_pair_loads_through_peftmodel_when_the_lora_is_injected_first(tmp_path):
    model = stacked()
    model.save_pretrained(tmp_path)
    base = loaded_onto(tiny_model(), tmp_path / "coarse", "coarse")
    loaded = PeftModel.from_pretrained(base, tmp_path / "fine", adapter_name="fine").eval()
    assert torch.allclose(logits(loaded, IDS), logits(model, IDS), atol=1e-6)


def requiring_gradients(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("trained", ["fine", "coarse", "neither", "both"])
def test_what_is_frozen_stays_frozen_after_adapters_were_disabled_for_a_while(trained):
    """PEFT itself lets everything that is active train when it is switched on again."""
    model = stacked()
    for name, parameter in model.named_parameters():
        kind = "fine" if ".reft_" in name else "coarse" if ".lora_" in name else "base"
        parameter.requires_grad_(trained == kind or (trained == "both" and kind != "base"))
    before, expected = logits(model, IDS), requiring_gradients(model)
    for _ in range(2):
        with model.disable_adapter():
            assert not requiring_gradients(model)
            logits(model, IDS)
        assert requiring_gradients(model) == expected
    assert torch.equal(logits(model, IDS), before)


def test_a_frozen_reft_beneath_another_tuner_stays_frozen_after_a_disable_block():
    reft = perturb(inject_adapter_in_model(ReftConfig(positions="f2+l2"), tiny_model(), adapter_name="fine")).eval()
    reft.requires_grad_(False)
    model = get_peft_model(reft, lora_config(), adapter_name="more").eval()
    expected = requiring_gradients(model)
    assert expected
    assert not any(".reft_" in name for name in expected)
    with model.disable_adapter():
        pass
    assert requiring_gradients(model) == expected


def test_a_reft_around_a_model_with_reft_keeps_the_earlier_one_active_and_frozen():
    config = ReftConfig(task_type="CAUSAL_LM", positions="f2+l2")
    base = perturb(inject_adapter_in_model(config, tiny_model(), adapter_name="one")).eval().requires_grad_(False)
    before = logits(base, IDS)
    model = get_peft_model(base, ReftConfig(task_type="CAUSAL_LM", positions="l1"), adapter_name="two").eval()
    assert torch.equal(logits(model, IDS), before)
    assert model.active_adapters == ["one", "two"]
    assert all(".two." in name for name in requiring_gradients(model))
    model.set_adapter("two")
    assert not torch.allclose(logits(model, IDS), before, atol=1e-3)


def test_a_peft_model_is_not_wrapped_again_and_is_left_as_it_was(tmp_path):
    stacked().save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(tiny_model(), tmp_path / "coarse", adapter_name="coarse").eval()
    before = logits(model, IDS)
    with pytest.raises(ValueError, match=r"model\.get_base_model\(\)"):
        get_peft_model(model, ReftConfig(task_type="CAUSAL_LM"), adapter_name="fine")
    with pytest.raises(ValueError, match=r"model\.get_base_model\(\)"):
        PeftModel.from_pretrained(model, tmp_path / "fine", adapter_name="fine")
    assert torch.equal(logits(model, IDS), before)
    assert not reft_layers(model)


def test_adapters_are_not_mixed_by_weighting_their_tensors():
    model = stacked()
    with pytest.raises(ValueError, match="an edit is not linear in them"):
        model.add_weighted_adapter(["fine"], [0.5], "half")


def test_no_edit_is_converted_to_lora():
    with pytest.raises(TypeError, match="ReftLayer"):
        convert_to_lora(stacked(), rank=2, adapter_name="fine")
