"""`heft export --to transformers`: transformers alone loads the model and has the adapted model's logits."""

import json
from functools import partial

import pytest
import torch
from exchanging import IDS, PROMPTS, adapted, apart, logits_of, made, saved_base
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from heft.errors import HeftError
from heft.exchange.export import export
from heft.exchange.folding import linears_behind
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from tiny import tiny_model

LORA = {"method": "lora", "rank": 3}
FOLDS = {"method": "reft", "rank": 2, "positions": "all", "site": "mlp"}
ROUNDING = 1e-4
"""Of the largest logit: what float32 sums in another order may change (heft.verify.logits)."""


def plain(folder):
    """As a person without heft loads it."""
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    "settings",
    [{}, {"dora": True}, {"rslora": True, "alpha": 5.0}, {"targets": ["q_proj", "down_proj"], "layers": [1]}],
    ids=["all-linear", "dora", "rslora", "some"],
)
def test_the_merged_model_has_the_logits_of_the_coarse_stage(settings, tmp_path):
    directory = made(tmp_path / "d", {"coarse": {**LORA, **settings}})
    done = export(directory, "transformers", tmp_path / "out")
    assert apart(logits_of(plain(done.folder)), logits_of(adapted(directory))) < ROUNDING
    assert not (done.folder / "adapter").exists()


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3", "qwen2"])
def test_it_has_them_in_other_families(architecture, tmp_path):
    base = str(saved_base(tmp_path / "base", architecture))
    directory = made(tmp_path / "d", {"coarse": LORA}, base=base, spread=0.03)
    done = export(directory, "transformers", tmp_path / "out")
    assert apart(logits_of(plain(done.folder)), logits_of(adapted(directory))) < ROUNDING


def test_two_lora_stages_merge_into_one_model(tmp_path):
    directory = made(tmp_path / "d", {"one": LORA, "two": {**LORA, "targets": ["q_proj"]}})
    done = export(directory, "transformers", tmp_path / "out")
    assert apart(logits_of(plain(done.folder)), logits_of(adapted(directory))) < ROUNDING


def test_the_reft_stage_is_beside_it_and_loads_by_peft_and_by_heft(tmp_path):
    directory = made(tmp_path / "d", {"coarse": LORA, "fine": {"method": "reft", "positions": "f1+l2"}})
    done = export(directory, "transformers", tmp_path / "out")
    assert done.beside == ["fine"]
    expected = logits_of(adapted(directory), prompt_lengths=PROMPTS)
    by_heft = logits_of(adapted(done.folder), prompt_lengths=PROMPTS)
    by_peft = PeftModel.from_pretrained(plain(done.folder), str(done.folder / "adapter" / "fine"))
    assert apart(by_heft, expected) < ROUNDING
    assert apart(logits_of(by_peft, prompt_lengths=PROMPTS), expected) < ROUNDING
    assert apart(logits_of(plain(done.folder)), expected) > 100 * ROUNDING


def test_an_export_that_was_moved_still_finds_the_model_that_it_is_beside(tmp_path):
    directory = made(tmp_path / "d", {"coarse": LORA, "fine": {"method": "reft", "positions": "f1+l2"}})
    done = export(directory, "transformers", tmp_path / "out")
    moved = done.folder.rename(tmp_path / "moved")
    expected = logits_of(adapted(directory), prompt_lengths=PROMPTS)
    assert apart(logits_of(adapted(moved), prompt_lengths=PROMPTS), expected) < ROUNDING


@pytest.mark.parametrize("to", ["transformers", "peft"])
def test_of_the_base_alone_there_is_nothing_to_export(to, tmp_path):
    directory = made(tmp_path / "d", {"coarse": LORA})
    with pytest.raises(HeftError, match="--stages base is the base model without adapters, so there is none to export"):
        export(directory, to, tmp_path / "out", ["base"])


def test_a_stage_can_be_exported_without_the_later_ones(tmp_path):
    directory = made(tmp_path / "d", {"coarse": LORA, "fine": {"method": "reft", "positions": "f1+l2"}})
    done = export(directory, "transformers", tmp_path / "out", stages=["coarse"])
    assert apart(logits_of(plain(done.folder)), logits_of(adapted(directory, "coarse"))) < ROUNDING
    assert not (done.folder / "adapter").exists()


@pytest.mark.parametrize("site", ["mlp", "attention"])
@pytest.mark.parametrize("intervention", ["loreft", "noreft", "direft", "consreft", "lobireft"])
def test_a_folded_edit_is_part_of_the_weights(intervention, site, tmp_path):
    fine = {**FOLDS, "intervention": intervention, "site": site}
    directory = made(tmp_path / "d", {"coarse": LORA, "fine": fine})
    done = export(directory, "transformers", tmp_path / "out", fold=True)
    assert (done.folded, done.beside) == (["fine"], [])
    expected, without = logits_of(adapted(directory)), logits_of(adapted(directory, "coarse"))
    assert apart(logits_of(plain(done.folder)), expected) < ROUNDING < apart(without, expected) / 100


def test_a_fold_of_a_transposed_layer_with_a_bias_has_the_same_logits(tmp_path):
    base = str(saved_base(tmp_path / "base", "gpt2"))
    directory = made(tmp_path / "d", {"coarse": LORA, "fine": FOLDS}, base=base, spread=0.03)
    done = export(directory, "transformers", tmp_path / "out", fold=True)
    assert done.folded == ["fine"]
    assert apart(logits_of(plain(done.folder)), logits_of(adapted(directory))) < ROUNDING


def test_edits_of_one_site_fold_one_after_the_other(tmp_path):
    stages = {"one": FOLDS, "two": {**FOLDS, "intervention": "direft"}}
    directory = made(tmp_path / "d", stages)
    done = export(directory, "transformers", tmp_path / "out", fold=True)
    assert done.folded == ["one", "two"]
    assert apart(logits_of(plain(done.folder)), logits_of(adapted(directory))) < ROUNDING


def test_weights_that_keep_out_of_directions_fold_as_any_others(tmp_path):
    from heft.run.train import train
    from tiny_recipe import write_recipe

    fine = "{method: reft, rank: 2, positions: all, site: mlp, orthogonal_to: coarse, steps: 3, batch_size: 4}"
    recipe = write_recipe(
        tmp_path,
        f"{{coarse: {{method: lora, rank: 2, steps: 3, batch_size: 4}}, fine: {fine}}}",
        f"output: {tmp_path / 'run'}",
    )
    run = train(recipe)
    done = export(run.directory, "transformers", tmp_path / "out", fold=True)
    assert done.folded == ["fine"]
    assert apart(logits_of(plain(done.folder)), logits_of(adapted(run.directory))) < ROUNDING


@pytest.mark.parametrize(
    ("settings", "architecture", "reason"),
    [
        ({"site": "block"}, "llama", "edits the output of blocks"),
        ({"positions": "l2"}, "llama", "a weight acts on all tokens"),
        ({"activation": "relu"}, "llama", "has activation relu, so it is not linear"),
        ({}, "qwen2", "needs a bias, and Qwen2ForCausalLM has no setting"),
    ],
    ids=["block", "positions", "activation", "bias"],
)
def test_what_does_not_fold_stays_beside_and_the_reason_is_said(settings, architecture, reason, tmp_path):
    base = str(saved_base(tmp_path / "base", architecture))
    directory = made(tmp_path / "d", {"fine": {**FOLDS, **settings}}, base=base)
    done = export(directory, "transformers", tmp_path / "out", fold=True)
    assert (done.folded, done.beside) == ([], ["fine"])
    assert reason in "\n".join(done.notes)
    expected = logits_of(adapted(directory), prompt_lengths=PROMPTS)
    assert apart(logits_of(adapted(done.folder), prompt_lengths=PROMPTS), expected) < ROUNDING


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run, hidden: (run(hidden), run(hidden))[1], "computed several times in a pass"),
        (lambda run, hidden: run(hidden) * 0.5, "computed further after its last linear layer"),
        (lambda run, hidden: run(hidden).mul_(0.5), "computed further after its last linear layer"),
    ],
    ids=["twice", "scaled", "scaled in place"],
)
def test_only_a_linear_layer_that_gives_a_site_its_very_output_once_can_take_an_edit(change, reason):
    model = tiny_model()
    plain, changed = (layer.mlp for layer in model.model.layers[:2])
    changed.forward = partial(change, changed.forward)
    found = linears_behind(model, ["model.layers.0.mlp", "model.layers.1.mlp"])
    assert found["model.layers.0.mlp"] is plain.down_proj
    assert reason in found["model.layers.1.mlp"]


def test_an_edit_behind_one_that_stays_does_not_fold(tmp_path):
    stages = {"one": {**FOLDS, "activation": "relu"}, "two": FOLDS}
    done = export(made(tmp_path / "d", stages), "transformers", tmp_path / "out", fold=True)
    assert done.beside == ["one", "two"]
    assert "after another adapter that stays" in "\n".join(done.notes)


def test_an_edit_whose_constant_is_zero_folds_without_a_bias(tmp_path):
    base = str(saved_base(tmp_path / "base", "qwen2"))
    directory = made(tmp_path / "d", {"fine": FOLDS}, base=base, spread=0.0)
    assert export(directory, "transformers", tmp_path / "out", fold=True).folded == ["fine"]


def test_merged_weights_in_bfloat16_are_rounded_once_and_it_is_said(tmp_path):
    base = str(saved_base(tmp_path / "base", dtype=torch.bfloat16))
    directory = made(tmp_path / "d", {"coarse": LORA}, base=base, dtype="bfloat16")
    done = export(directory, "transformers", tmp_path / "out")
    assert "rounded to bfloat16" in done.notes[0]
    model = adapted(directory)
    layer = model.get_submodule("model.layers.1.mlp.up_proj")
    exact = layer.get_base_layer().weight.double() + layer.get_delta_weight("coarse").double()
    saved = plain(done.folder).get_submodule("model.layers.1.mlp.up_proj").weight
    assert saved.dtype == torch.bfloat16
    assert (saved.double() - exact).abs().max() <= exact.abs().max() * 2**-8


@pytest.mark.parametrize("intervention", ["loreft", "direft"])
def test_weights_that_are_merged_and_folded_in_bfloat16_are_rounded_once(intervention, tmp_path):
    base = str(saved_base(tmp_path / "base", dtype=torch.bfloat16))
    stages = {"coarse": LORA, "fine": {**FOLDS, "intervention": intervention}}
    directory = made(tmp_path / "d", stages, base=base, dtype="bfloat16")
    short, whole = (
        plain(export(directory, "transformers", tmp_path / dtype, fold=True, dtype=dtype).folder).state_dict()
        for dtype in ("bfloat16", "float32")
    )
    assert short.keys() == whole.keys()
    for name, weight in whole.items():
        assert short[name].dtype == torch.bfloat16
        assert (short[name] == weight.bfloat16()).float().mean() > 0.999, name  # sums in another order may tip one


def test_weights_are_merged_on_the_device_that_is_named(tmp_path):
    directory = made(tmp_path / "d", {"coarse": LORA})
    absent = "cuda" if torch.backends.mps.is_available() else "mps"
    with pytest.raises(HeftError, match=f"model.device is {absent}, which this machine does not have"):
        export(directory, "transformers", tmp_path / "out", device=absent)
    assert not (tmp_path / "out").exists()


def test_dtype_float32_keeps_merged_weights_whole(tmp_path):
    base = str(saved_base(tmp_path / "base", dtype=torch.bfloat16))
    directory = made(tmp_path / "d", {"coarse": LORA}, base=base, dtype="bfloat16")
    done = export(directory, "transformers", tmp_path / "out", dtype="float32")
    whole = load_base(ModelSettings(name=base, device="cpu", dtype="float32")).model
    adapted = PeftModel.from_pretrained(whole, str(directory / "coarse"))
    assert done.notes == []
    assert apart(logits_of(plain(done.folder)), logits_of(adapted)) < ROUNDING


def test_tokenizer_template_and_generation_settings_come_along(tmp_path):
    base = saved_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(base)
    (base / "generation_config.json").write_text(
        json.dumps({"max_new_tokens": 7, "eos_token_id": 2, "pad_token_id": 0})
    )
    directory = made(tmp_path / "d", {"coarse": LORA}, base=str(base))
    done = export(directory, "transformers", tmp_path / "out")
    there = AutoTokenizer.from_pretrained(done.folder)
    assert there.chat_template == tokenizer.chat_template
    assert there("Anna")["input_ids"] == tokenizer("Anna")["input_ids"]
    assert plain(done.folder).generation_config.max_new_tokens == 7


def test_generation_settings_that_transformers_doubts_come_along_with_the_token_that_ends_answers(tmp_path):
    """Such as Vicuna's and Llama 2's own: it refuses to save them once something in them was changed."""
    base = saved_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<pad>{% endfor %}"
    tokenizer.save_pretrained(base)
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "pad_token_id": 0, "temperature": 0.9}))
    directory = made(tmp_path / "d", {"coarse": LORA}, base=str(base))
    values = json.loads((directory / "heft.json").read_text())
    values["task"]["chat_template"] = True
    (directory / "heft.json").write_text(json.dumps(values))
    done = export(directory, "transformers", tmp_path / "out")
    written = json.loads((done.folder / "generation_config.json").read_text())
    assert (written["temperature"], written["eos_token_id"]) == (0.9, [2, 0])
    assert plain(done.folder).generation_config.eos_token_id == [2, 0]


@pytest.mark.parametrize(
    ("stages", "reasons"),
    [
        ({"coarse": {**LORA, "positions": "l2+"}}, ["coarse is a LoRA of some tokens (l2+)"]),
        ({"coarse": {**LORA, "trainable_tokens": ["q"]}}, ["1 trainable tokens"]),
        ({"one": {**LORA, "dora": True}, "two": LORA}, ["one uses DoRA"]),
        (
            {"one": {**LORA, "positions": "l2+"}, "two": {**LORA, "trainable_tokens": ["q"]}},
            ["one is a LoRA of some tokens", "two replaces the embeddings"],
        ),
    ],
    ids=["positions", "tokens", "dora", "both"],
)
def test_what_no_merged_weight_has_is_refused_and_nothing_is_written(stages, reasons, tmp_path):
    directory = made(tmp_path / "d", stages)
    with pytest.raises(HeftError, match="nothing was written") as error:
        export(directory, "transformers", tmp_path / "out")
    assert all(reason in str(error.value) for reason in reasons)
    assert not list(tmp_path.glob("out*"))


def test_a_quantised_base_is_refused_before_it_is_loaded(tmp_path):
    directory = made(tmp_path / "d", {"coarse": LORA})
    path = directory / "heft.json"
    values = json.loads(path.read_text())
    values["model"] |= {"name": "nobody/nothing", "quantization": "4bit"}
    path.write_text(json.dumps(values))
    with pytest.raises(HeftError, match="loaded in 4bit: merged weights would be rounded again"):
        export(directory, "transformers", tmp_path / "out")


def test_a_weight_that_another_module_shares_is_not_merged(tmp_path):
    base = str(saved_base(tmp_path / "base", tie_word_embeddings=True))
    loaded = load_base(ModelSettings(name=base, device="cpu", dtype="float32"))
    from peft import LoraConfig, inject_adapter_in_model

    from heft.exchange.merging import merge_lora

    inject_adapter_in_model(LoraConfig(target_modules=["lm_head"]), loaded.model, "coarse")
    before = loaded.model.get_input_embeddings().weight.clone()
    with pytest.raises(HeftError, match="lm_head are another module's too"):
        merge_lora(loaded.model, ["coarse"])
    assert torch.equal(before, loaded.model.get_input_embeddings().weight)


def test_an_export_that_would_differ_is_not_written(tmp_path, monkeypatch):
    import heft.exchange.to_transformers as module

    def spoil(model, names):
        plainly(model, names)
        with torch.no_grad():
            model.lm_head.weight.mul_(1.01)

    plainly = module.merge_lora
    monkeypatch.setattr(module, "merge_lora", spoil)
    with pytest.raises(HeftError, match="nothing was written"):
        export(made(tmp_path / "d", {"coarse": LORA}), "transformers", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_folder_that_is_there_is_not_written_over(tmp_path):
    directory = made(tmp_path / "d", {"coarse": LORA})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(HeftError, match="is there already"):
        export(directory, "transformers", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("to", "dtype", "words"),
    [("onnx", None, "--to is 'onnx'; expected one of transformers"), ("transformers", "int8", "--dtype is 'int8'")],
)
def test_a_word_that_it_does_not_know_is_said_with_those_it_knows(to, dtype, words, tmp_path):
    directory = made(tmp_path / "d", {"coarse": LORA})
    with pytest.raises(HeftError, match=words):
        export(directory, to, tmp_path / "out", dtype=dtype)
    assert not (tmp_path / "out").exists()


def test_ids_are_within_the_tiny_models_vocabulary():
    assert IDS.max() < 259
