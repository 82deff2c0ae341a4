"""Families that people use, in every way that heft uses a model; `make architectures` tries all of them."""

import sys
from pathlib import Path

import peft
import pytest
import torch

from heft.adapters.attach import adapter_parameters, attach
from heft.adapters.directory import save_adapter
from heft.adapters.lora import lora_faults
from heft.adapters.lora_targets import endings_of, linear_names, unadaptable
from heft.recipe.recipe import LoraSettings, LoraStage

RIG = Path(__file__).parents[1] / "torture" / "architectures"
FAMILIES = ("gemma4_text", "gpt_oss", "qwen3_next", "deepseek_v3", "bart")
"""Sliding layers that share keys, fused experts, linear attention, compressed keys, a decoder of two."""
ALIKE = ("mamba", "lfm2", "gemma2", "mixtral", "qwen3_moe", "phi3+longrope", "jamba", "llama4_text")
"""Families whose parts families above have too, or models of other tests."""
REFUSED = {"xlnet": "use LoRA on this model", "xlm": "found no list of 4 blocks"}


@pytest.fixture(scope="module")
def rig():
    """The rig's own modules, whose names are no package's."""
    sys.path.insert(0, str(RIG))
    try:
        import attached
        import counts
        import page
        import runs
        import shrink

        yield {"attached": attached, "counts": counts, "page": page, "runs": runs, "shrink": shrink}
    finally:
        sys.path.remove(str(RIG))


def outcome(rig, name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    rig["shrink"].save(name, folder / "model")
    found = {
        "attached": rig["attached"].check(folder / "model"),
        "counts": rig["counts"].check(folder / "model"),
        "runs": rig["runs"].check(folder / "model", folder / "runs"),
    }
    return rig["page"].outcome_of(name, found)


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(each, marks=pytest.mark.long) for each in ALIKE)])
def test_a_family_trains_decodes_reloads_and_verifies_exactly(rig, name, tmp_path, monkeypatch):
    found = outcome(rig, name, tmp_path, monkeypatch)
    assert (found.state, found.reasons) == ("works", [])


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_reft_cannot_edit_is_refused_before_training(rig, name, tmp_path, monkeypatch):
    found = outcome(rig, name, tmp_path, monkeypatch)
    assert found.state == "refused"
    assert REFUSED[name] in found.reasons[0]


def test_a_fault_is_seen(rig, tmp_path, monkeypatch):
    """The rig itself: a model whose edits land one token early does not pass."""
    from heft.reft import tracker

    right = tracker.edited_token_indices
    monkeypatch.setattr(tracker, "edited_token_indices", lambda *a: (right(*a) - 1).clamp(min=0))
    rig["shrink"].save("llama", tmp_path / "model")
    faults = rig["attached"].check(tmp_path / "model")["faults"]
    assert "block: own" in faults


def test_layers_that_peft_would_miscount_are_refused(rig):
    """Blocks of LongCat have two attentions each, in a list: `layers: [1]` would take the second of every block."""
    model = rig["shrink"].build("longcat_flash")
    (fault,) = lora_faults(model, LoraSettings(targets=["o_proj"], layers=[1]))
    assert "PEFT takes the last number in model.layers.0.self_attn.1.o_proj for that of its layer" in fault
    assert lora_faults(model, LoraSettings(targets=["o_proj"])) == []


@pytest.mark.parametrize("name", ["laguna", "inkling2_text"])
def test_weights_that_peft_would_not_read_back_are_left_out_or_refused(rig, name, tmp_path):
    model, again = rig["shrink"].build(name), rig["shrink"].build(name)
    lost = endings_of(unadaptable(model), linear_names(model))
    assert any("shared_experts" in ending or "sconv" in ending for ending in lost)
    assert "name it in exclude" in lora_faults(model, LoraSettings(targets=[lost[0].rpartition(".")[2]]))[0]
    attach(model, "coarse", LoraStage(method="lora", rank=2, steps=1))
    with torch.no_grad():
        for parameter in adapter_parameters(model, ["coarse"]).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_adapter(tmp_path / "coarse", model, "coarse")
    again = peft.PeftModel.from_pretrained(again, tmp_path / "coarse").eval()
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


def test_totals_count_what_became_of_each_class(rig):
    outcomes = [rig["page"].Outcome(n, s) for n, s in (("a", "works"), ("b", "fails"), ("c", "not built"))]
    assert rig["page"].totals(outcomes) == (
        "3 names, 2 built, 2 of these text models: 1 work (50.0 %), 0 are refused before training, 1 fail"
    )
