"""`heft export --to peft`: one flat LoRA that PEFT loads on the bare base, with the adapted model's logits."""

import json
import subprocess
import sys

import pytest
import torch
from exchanging import IDS, adapted, apart, logits_of, made, saved_base
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import heft
from heft.errors import HeftError
from heft.exchange.export import export
from heft.exchange.importing import import_adapter

LORA = {"method": "lora", "rank": 3}
FOLDS = {"method": "reft", "rank": 2, "positions": "all", "site": "mlp"}
ROUNDING = 1e-4
"""Of the largest logit: what float32 sums in another order may change (heft.verify.logits)."""
WITHOUT_HEFT = """
import sys
import torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    torch.save(model(input_ids=torch.load(sys.argv[2])).logits, sys.argv[3])
assert not any(name.split(".")[0] == "heft" for name in sys.modules)
"""


@pytest.fixture
def base(tmp_path):
    return str(saved_base(tmp_path / "base"))


def by_peft(base, folder):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))


@pytest.mark.long
def test_the_coarse_stage_alone_loads_without_heft_by_the_name_of_its_base(base, tmp_path):
    directory = made(tmp_path / "d", {"coarse": LORA, "fine": {"method": "reft", "positions": "l2"}}, base=base)
    done = export(directory, "peft", tmp_path / "out")
    torch.save(IDS, tmp_path / "ids.pt")
    command = [sys.executable, "-c", WITHOUT_HEFT, str(done.folder), str(tmp_path / "ids.pt"), str(tmp_path / "x.pt")]
    subprocess.run(command, check=True, capture_output=True)
    assert apart(torch.load(tmp_path / "x.pt"), logits_of(adapted(directory, "coarse"))) < ROUNDING
    assert "left out: fine" in done.notes[0]


def test_the_folder_is_flat_and_has_keys_of_peft_alone(base, tmp_path):
    done = export(made(tmp_path / "d", {"coarse": {**LORA, "rslora": True}}, base=base), "peft", tmp_path / "out")
    assert sorted(path.name for path in done.folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    values = json.loads((done.folder / "adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == base
    assert values["peft_type"] == "LORA"
    assert values.keys() - {"peft_version", "auto_mapping"} <= vars(LoraConfig()).keys()
    assert all(".lora_" in key for key in load_file(done.folder / "adapter_model.safetensors"))


def test_a_name_on_the_hub_can_be_given_for_the_base(base, tmp_path):
    directory = made(tmp_path / "d", {"coarse": LORA}, base=base)
    done = export(directory, "peft", tmp_path / "out", base="org/base")
    assert json.loads((done.folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
    assert not done.notes


def test_several_lora_stages_become_one_of_their_added_ranks(base, tmp_path):
    directory = made(tmp_path / "d", {"one": {**LORA, "alpha": 5.0}, "two": {**LORA, "targets": ["q_proj"]}}, base=base)
    done = export(directory, "peft", tmp_path / "out")
    assert apart(logits_of(by_peft(base, done.folder)), logits_of(adapted(directory))) < ROUNDING
    weights = load_file(done.folder / "adapter_model.safetensors")
    ranks = {key.split(".")[-3]: len(value) for key, value in weights.items() if "lora_A" in key}
    assert (ranks["q_proj"], ranks["v_proj"]) == (6, 6), "filled up with zeros"
    assert all(not value[3:].any() for key, value in weights.items() if "v_proj.lora_A" in key)


@pytest.mark.parametrize(
    "stages", [{"one": LORA, "two": {**LORA, "targets": ["q_proj"]}}, {"one": LORA, "fine": FOLDS}]
)
def test_other_readers_of_one_lora_give_it_the_scaling_that_peft_gives_it(stages, base, tmp_path):
    done = export(made(tmp_path / "d", stages, base=base), "peft", tmp_path / "out", fold=True)
    config = json.loads((done.folder / "adapter_config.json").read_text())
    by_peft_ = {
        name.removeprefix("base_model.model."): layer.scaling["default"]
        for name, layer in by_peft(base, done.folder).named_modules()
        if isinstance(layer, LoraLayer)
    }
    weights = load_file(done.folder / "adapter_model.safetensors")
    ranks = {key.split(".lora_A")[0]: len(value) for key, value in weights.items() if key.endswith("lora_A.weight")}
    ranks = {name.removeprefix("base_model.model."): rank for name, rank in ranks.items()}
    by_vllm = dict.fromkeys(ranks, config["lora_alpha"] / config["r"])
    by_llama_cpp = {name: config["lora_alpha"] / rank for name, rank in ranks.items()}
    assert by_peft_ == by_vllm == by_llama_cpp


@pytest.mark.parametrize(
    "settings", [{"rslora": True}, {"rank_pattern": {"q_proj": 2}}, {"alpha_pattern": {"q_proj": 2.0}}]
)
def test_a_scaling_that_others_may_not_read_is_said(settings, base, tmp_path):
    done = export(made(tmp_path / "d", {"coarse": {**LORA, **settings}}, base=base), "peft", tmp_path / "out")
    assert next(iter(settings)) in "\n".join(done.notes)


@pytest.mark.parametrize("intervention", ["loreft", "noreft", "direft", "consreft", "lobireft"])
def test_folded_edits_are_part_of_the_lora(intervention, base, tmp_path):
    fine = {**FOLDS, "intervention": intervention}
    directory = made(tmp_path / "d", {"coarse": LORA, "fine": fine}, base=base)
    done = export(directory, "peft", tmp_path / "out", fold=True)
    assert done.folded == ["fine"]
    assert apart(logits_of(by_peft(base, done.folder)), logits_of(adapted(directory))) < ROUNDING


def test_a_reft_stage_alone_folds_into_a_lora(base, tmp_path):
    directory = made(tmp_path / "d", {"fine": FOLDS}, base=base)
    done = export(directory, "peft", tmp_path / "out", fold=True)
    assert apart(logits_of(by_peft(base, done.folder)), logits_of(adapted(directory))) < ROUNDING


def test_a_fold_needs_no_bias_of_the_models_own(tmp_path):
    base = str(saved_base(tmp_path / "base", "qwen2"))
    directory = made(tmp_path / "d", {"coarse": LORA, "fine": {**FOLDS, "site": "attention"}}, base=base)
    done = export(directory, "peft", tmp_path / "out", fold=True)
    assert apart(logits_of(by_peft(base, done.folder)), logits_of(adapted(directory))) < ROUNDING
    assert "lora_bias" in "\n".join(done.notes)


@pytest.mark.parametrize("architecture", ["llama", "phi"])  # without biases of its own, and with
def test_edits_of_one_layer_fold_one_after_the_other(architecture, tmp_path):
    base = str(saved_base(tmp_path / "base", architecture))
    stages = {"coarse": LORA, "one": FOLDS, "two": {**FOLDS, "intervention": "direft"}}
    directory = made(tmp_path / "d", stages, base=base)
    done = export(directory, "peft", tmp_path / "out", fold=True)
    assert apart(logits_of(by_peft(base, done.folder)), logits_of(adapted(directory))) < ROUNDING


def test_the_factors_of_a_fold_are_those_of_the_formula(base, tmp_path):
    directory = made(tmp_path / "d", {"coarse": {**LORA, "targets": ["q_proj"]}, "fine": FOLDS}, base=base)
    done = export(directory, "peft", tmp_path / "out", fold=True)
    weights = load_file(done.folder / "adapter_model.safetensors")
    model = adapted(directory)
    unit = model.get_submodule("model.layers.1.mlp.reft").reft_shared["fine"]
    from heft.edits.arithmetic import orthonormal_rows

    rows = orthonormal_rows(unit.rotation)
    down = (unit.weight - rows) @ model.get_submodule("model.layers.1.mlp.down_proj").weight
    key = "base_model.model.model.layers.1.mlp.down_proj.lora_"
    torch.testing.assert_close(weights[f"{key}A.weight"][:2], down, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights[f"{key}B.weight"][:, :2], rows.T, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(weights[f"{key}B.bias"], rows.T @ unit.bias, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("stages", "fold", "reason"),
    [
        ({"fine": FOLDS}, False, "there is no LoRA adapter"),
        ({"coarse": {**LORA, "positions": "l2+"}}, False, "for which PEFT has no setting"),
        ({"fine": FOLDS, "coarse": LORA}, False, "coarse was trained on top of the ReFT adapter fine"),
        ({"one": LORA, "fine": FOLDS, "two": LORA}, False, "two was trained on top of the ReFT adapter fine"),
        ({"both": {"method": "joint", "lora": {}, "reft": {}}}, False, "both_lora was trained together with"),
        ({"one": {**LORA, "dora": True}, "two": LORA}, False, "one has DoRA, which do not combine"),
        ({"coarse": LORA, "fine": {"method": "reft", "positions": "l2"}}, True, "edits the output of blocks"),
        ({"coarse": {**LORA, "dora": True}, "fine": {"method": "reft"}}, True, "coarse has DoRA"),
        ({"coarse": LORA, "fine": {**FOLDS, "activation": "gelu"}}, True, "has activation gelu"),
    ],
)
def test_what_is_no_lora_is_refused_and_nothing_is_written(stages, fold, reason, tmp_path):
    with pytest.raises(HeftError) as error:
        export(made(tmp_path / "d", stages), "peft", tmp_path / "out", fold=fold)
    assert reason in str(error.value)
    assert not list(tmp_path.glob("out*"))


def test_alora_with_invocation_tokens_goes_out_as_pefts_own(base, tmp_path):
    directory = made(tmp_path / "d", {"coarse": {**LORA, "positions": "l2+"}}, base=base)
    from tiny import forget_hashes

    path = forget_hashes(directory) / "coarse" / "adapter_config.json"
    values = json.loads(path.read_text())
    values |= {"peft_type": "LORA", "alora_invocation_tokens": [28, 99]}
    del values["positions"], values["invocation_tokens"]
    path.write_text(json.dumps(values))
    done = export(directory, "peft", tmp_path / "out")
    assert json.loads((done.folder / "adapter_config.json").read_text())["alora_invocation_tokens"] == [28, 99]


def test_dtype_has_no_meaning_for_an_adapter(base, tmp_path):
    with pytest.raises(HeftError, match="--dtype goes with"):
        export(made(tmp_path / "d", {"coarse": LORA}, base=base), "peft", tmp_path / "out", dtype="float32")


def test_an_update_of_embeddings_does_not_combine_and_is_refused_before_a_model_is_loaded(base, tmp_path):
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"])
    )
    model.save_pretrained(tmp_path / "embeds", save_embedding_layers=False)
    import_adapter(str(tmp_path / "embeds"), tmp_path / "one", base=base)
    alone = export(tmp_path / "one", "peft", tmp_path / "alone")
    assert apart(logits_of(by_peft(base, alone.folder)), logits_of(adapted(tmp_path / "one"))) < ROUNDING
    loaded, _ = heft.load(tmp_path / "one")
    heft.stack(loaded, LoraConfig(r=2, target_modules=["up_proj"], task_type="CAUSAL_LM"), "more").save_pretrained(
        tmp_path / "two"
    )
    with pytest.raises(HeftError, match="coarse has an update of embeddings, which do not combine"):
        export(tmp_path / "two", "peft", tmp_path / "out")
