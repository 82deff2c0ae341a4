"""LoRA from a recipe."""

import peft
import pytest
import torch

import tiny
from heft.adapters.attach import adapter_parameters, attach, finish
from heft.adapters.directory import attach_saved, save_adapter
from heft.adapters.lora import lora_config, lora_faults
from heft.adapters.patterns import as_saved
from heft.recipe.recipe import LoraSettings, LoraStage

IDS = torch.arange(3, 40)[None]


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def randomise(model, name):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(model, [name]).values():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_every_setting_reaches_peft():
    settings = LoraSettings(
        rank=6, alpha=3.0, dropout=0.25, targets=["q_proj"], exclude=["o_proj"], layers=[1], rslora=True, dora=True,
        init="gaussian", rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 5.0},
    )  # fmt: skip
    config = lora_config(tiny.tiny_model(), settings)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (6, 3.0, 0.25)
    assert config.target_modules == {"q_proj"}
    assert config.exclude_modules == {"o_proj"}
    assert config.layers_to_transform == [1]
    assert (config.use_rslora, config.use_dora, config.init_lora_weights) == (True, True, "gaussian")
    assert (config.rank_pattern, config.alpha_pattern) == ({"q_proj": 2}, {"q_proj": 5.0})


def test_all_linear_adapts_every_linear_module_but_the_head_in_the_chosen_layers():
    model = tiny.tiny_model()
    attach(model, "a", LoraStage(method="lora", layers=[1], steps=1))
    adapted = {name for name, m in model.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    blocks = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
    expected = {f"model.layers.1.self_attn.{n}" for n in blocks[0]} | {f"model.layers.1.mlp.{n}" for n in blocks[1]}
    assert adapted == expected


def test_names_that_match_nothing_are_reported_together_with_the_nearest_ones():
    settings = LoraSettings(targets=["q_prj"], exclude=["nope"], layers=[9], rank_pattern={"up_prj": 4})
    faults = lora_faults(tiny.tiny_model(), settings)
    assert len(faults) == 4
    assert "q_proj" in faults[0]
    assert "nope" in faults[1]
    assert "up_proj" in faults[2]
    assert "layers 0 to 2" in faults[3]


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_for_a_module_that_is_not_adapted_is_an_error(field):
    model = tiny.tiny_model()
    outside = LoraSettings(targets=["q_proj"], **{field: {"down_proj": 4}})
    (fault,) = lora_faults(model, outside)
    assert fault.startswith(f"{field}: 'down_proj' matches no module that is adapted, so it changes nothing")
    excluded = LoraSettings(exclude=["down_proj"], **{field: {"down_proj": 4}})
    assert len(lora_faults(model, excluded)) == 1
    assert lora_faults(model, LoraSettings(**{field: {"down_proj": 4}})) == []
    assert lora_faults(model, LoraSettings(targets=["mlp.down_proj"], **{field: {"down_proj": 4}})) == []
    assert len(lora_faults(model, LoraSettings(**{field: {"lm_head": 4}}))) == 1


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_others_before_it_leave_nothing_is_an_error(field):
    model = tiny.tiny_model()
    (fault,) = lora_faults(model, LoraSettings(**{field: {"q_proj": 2, "layers.0.self_attn.q_proj": 4}}))
    assert fault.startswith(f"{field}: 'layers.0.self_attn.q_proj' changes nothing, since 'q_proj' before it")
    assert lora_faults(model, LoraSettings(**{field: {"layers.0.self_attn.q_proj": 4, "q_proj": 2}})) == []


@pytest.mark.parametrize("kind", ["dora", "rslora", "plain"])
def test_patterns_that_overlap_are_saved_so_that_they_mean_the_same(kind, tmp_path):
    """PEFT takes the first that matches, and sorts them when it saves them: `q_proj` would come before `self_…`."""
    ranks = {"self_attn.k_proj": 2, "k_proj": 5, "layers.0.self_attn.q_proj": 3, "q_proj": 6}
    alphas = {"1.self_attn.q_proj": 40.0, "self_attn.q_proj": 5.0, "down_proj": 7.0, "0.mlp.up_proj": 1.0, "up_proj": 9}
    model = tiny.tiny_model()
    chosen = {} if kind == "plain" else {kind: True}
    attached = attach(model, "a", LoraStage(rank_pattern=ranks, alpha_pattern=alphas, steps=1, method="lora", **chosen))
    randomise(model, "a")
    finish(model, attached)
    save_adapter(tmp_path / "a", model, "a")
    again, plain = tiny.tiny_model(), tiny.tiny_model()
    attach_saved(again, tmp_path / "a", "a")
    assert torch.equal(logits(again), logits(model))
    assert torch.equal(logits(peft.PeftModel.from_pretrained(plain, tmp_path / "a").eval()), logits(model))
    save_adapter(tmp_path / "b", again, "a")
    texts = [(tmp_path / name / "adapter_config.json").read_text() for name in "ab"]
    assert texts[0] == texts[1]


def test_patterns_are_saved_as_they_are_where_their_order_says_nothing():
    own, other = "model.layers.0.self_attn.q_proj", "model.layers.1.cross.q_proj"
    assert as_saved({"up_proj": 2, "q_proj": 4}, {own, "model.layers.0.up_proj"}) == {"up_proj": 2, "q_proj": 4}
    assert as_saved({"0.self_attn.q_proj": 2, "q_proj": 4}, {own, other}) == {"0.self_attn.q_proj": 2, "q_proj": 4}
    assert as_saved({"self_attn.q_proj": 2, "q_proj": 4}, {own, other}) == {own: 2, other: 4}


@pytest.mark.parametrize("architecture", ["gemma3", "gpt2", "llama"])
def test_an_output_head_that_is_tied_is_no_target(architecture):
    tied = tiny.tiny_model(architecture, tie_word_embeddings=True)
    (fault,) = lora_faults(tied, LoraSettings(targets=["lm_head"]))
    assert "'lm_head' is the output head, which shares its weights with the input embedding" in fault
    assert lora_faults(tied, LoraSettings()) == []
    apart = tiny.tiny_model("llama", tie_word_embeddings=False)
    assert lora_faults(apart, LoraSettings(targets=["lm_head"])) == []


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_an_init_that_changed_the_base_becomes_a_plain_adapter_of_equal_effect(init, rslora):
    model = tiny.tiny_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    plain = logits(model)
    stage = LoraStage(method="lora", rank=4, init=init, rslora=rslora, rank_pattern={"up_proj": 6}, steps=1)
    attached = attach(model, "a", stage)
    assert torch.allclose(logits(model), plain, atol=1e-4), "the start is no change"
    randomise(model, "a")
    trained = logits(model)
    assert (trained - plain).abs().max() > 0.1
    finish(model, attached)
    assert torch.allclose(logits(model), trained, atol=1e-4)
    assert model.peft_config["a"].init_lora_weights is True
    for name, parameter in model.named_parameters():
        original = name.replace(".base_layer", "")
        if original in before:
            assert torch.equal(parameter, before[original]), f"{name} is not the base's own"


def test_a_second_adapter_that_changes_the_base_leaves_the_first_one_alone():
    model = tiny.tiny_model()
    finish(model, attach(model, "one", LoraStage(method="lora", rank=4, steps=1)))
    randomise(model, "one")
    with_one = logits(model)
    attached = attach(model, "two", LoraStage(method="lora", rank=4, init="pissa", steps=1))
    assert torch.allclose(logits(model), with_one, atol=1e-4)
    randomise(model, "two")
    trained = logits(model)
    finish(model, attached)
    assert torch.allclose(logits(model), trained, atol=1e-4)
