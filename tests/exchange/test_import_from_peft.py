"""`heft import` of PEFT's LoRA: an adapter directory with PEFT's logits, which the commands take."""

import json

import pytest
import torch
from exchanging import adapted, apart, logits_of, made, saved_base
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from heft.adapters.manifest import read_manifest
from heft.errors import HeftError
from heft.exchange.export import export
from heft.exchange.importing import import_adapter
from heft.verify import verify


@pytest.fixture
def base(tmp_path):
    return str(saved_base(tmp_path / "base"))


def lora(base, folder, **settings):
    torch.manual_seed(5)
    options = {"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


def test_the_imported_adapter_has_pefts_logits_and_its_base(base, tmp_path):
    theirs = lora(base, tmp_path / "lora")
    import_adapter(str(tmp_path / "lora"), tmp_path / "out", overrides=["model.dtype=float32"])
    assert apart(logits_of(adapted(tmp_path / "out")), logits_of(theirs)) == 0
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.model.name, manifest.adapters[0].name) == (base, "coarse")


def test_it_passes_heft_verify(base, tmp_path):
    lora(base, tmp_path / "lora")
    import_adapter(str(tmp_path / "lora"), tmp_path / "out", overrides=["model.dtype=float32"])
    assert verify(tmp_path / "out").ok


def test_a_task_and_its_settings_can_be_given(base, tmp_path):
    lora(base, tmp_path / "lora")
    overrides = ["model.dtype=float32", "task.moves=4", "evaluation.batch_size=3"]
    import_adapter(str(tmp_path / "lora"), tmp_path / "out", task="whereabouts", overrides=overrides)
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.task["name"], manifest.task["moves"]) == ("whereabouts", 4)
    assert manifest.evaluation["batch_size"] == 3


def test_what_goes_out_to_peft_comes_back_the_same(base, tmp_path):
    directory = made(tmp_path / "d", {"one": {"method": "lora", "rank": 2}, "two": {"method": "lora"}}, base=base)
    out = export(directory, "peft", tmp_path / "peft").folder
    import_adapter(str(out), tmp_path / "back", overrides=["model.dtype=float32"])
    assert apart(logits_of(adapted(tmp_path / "back")), logits_of(adapted(directory))) < 1e-5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modules_to_save": ["lm_head"]}, "holds whole copies of modules"),
        ({"peft_type": "IA3"}, "heft reads adapters of"),
    ],
)
def test_what_heft_does_not_keep_is_refused_and_nothing_is_written(change, reason, base, tmp_path):
    lora(base, tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(HeftError, match=reason):
        import_adapter(str(tmp_path / "lora"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_of_pyreft_have_no_meaning_for_it(base, tmp_path):
    lora(base, tmp_path / "lora")
    with pytest.raises(HeftError, match="--positions goes with a directory of pyreft's"):
        import_adapter(str(tmp_path / "lora"), tmp_path / "out", positions="l1")


def test_an_adapter_directory_of_heft_is_none_to_import(tmp_path):
    directory = made(tmp_path / "d", {"coarse": {"method": "lora"}})
    with pytest.raises(HeftError, match="is a run or an adapter directory of heft already"):
        import_adapter(str(directory), tmp_path / "out")


def test_a_run_of_heft_is_none_to_import(tmp_path):
    """Of its only LoRA the rest would be lost, such as how prompts were made."""
    made(tmp_path / "run" / "adapter", {"coarse": {"method": "lora", "rank": 2}})
    with pytest.raises(HeftError, match="is a run or an adapter directory of heft already"):
        import_adapter(str(tmp_path / "run"), tmp_path / "out")


def test_the_written_folder_loads_in_peft(base, tmp_path):
    theirs = lora(base, tmp_path / "lora")
    import_adapter(str(tmp_path / "lora"), tmp_path / "out", overrides=["model.dtype=float32"])
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "out" / "coarse"))
    assert apart(logits_of(again), logits_of(theirs)) == 0
