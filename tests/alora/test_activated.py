"""LoRA with positions against a dense reference, whose mask is written out by hand."""

import copy

import pytest
import torch
from masked import MaskedLora, gradients_of, shaken
from peft import LoraConfig, PeftModel, convert_to_lora, get_peft_model

import tiny
from heft.alora import ActivatedLoraConfig
from heft.alora.variant import ActivatedVariant
from heft.reft import ReftConfig
from heft.reft.tracker import tracker_of
from heft.training.fused_lora import fused_lora
from tolerance import assert_gradients, rounded

LINEAR = {"task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "target_modules": "all-linear"}
PROMPTS, ANSWERS = (7, 4, 10), (3, 2, 1)


def adapted(architecture="llama", positions="l2", model=None, **options):
    model = tiny.tiny_model(architecture) if model is None else model
    torch.manual_seed(0)
    return shaken(get_peft_model(model, ActivatedLoraConfig(positions=positions, **(LINEAR | options)))).eval()


def batch(side="left", last=2):
    """Ids, mask, labels, prompt lengths of rows of unlike lengths, and the columns of the last positions and later."""
    width = max(p + a for p, a in zip(PROMPTS, ANSWERS, strict=True)) + 1
    ids = torch.zeros(len(PROMPTS), width, dtype=torch.long)
    mask, labels, acted = torch.zeros_like(ids), torch.full_like(ids, -100), torch.zeros_like(ids)
    generator = torch.Generator().manual_seed(1)
    for i, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        start = width - prompt - answer if side == "left" else 0
        own = slice(start, start + prompt + answer)
        ids[i, own] = torch.randint(3, 259, (prompt + answer,), generator=generator)
        mask[i, own] = 1
        labels[i, start + prompt : start + prompt + answer] = ids[i, start + prompt : start + prompt + answer]
        acted[i, start + max(0, prompt - last) : start + prompt + answer] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}, acted


def reference_of(model, architecture="llama"):
    return MaskedLora(tiny.tiny_model(architecture), model)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_loss_and_gradients_are_those_of_the_update_under_an_explicit_mask(architecture, side, fused):
    model = adapted(architecture)
    inputs, acted = batch(side)
    reference = reference_of(model, architecture).acting_on(default=acted)
    expected = reference.model(**inputs).loss
    with fused_lora(model, fused):
        loss = model(**inputs).loss
        assert loss.item() == rounded(expected.item())
        assert_gradients(gradients_of(model, loss, "default"), reference.gradients(expected, "default"))


def test_every_token_before_the_positions_keeps_the_keys_and_values_of_the_base():
    model = adapted(positions="l3")
    ids = batch()[0]["input_ids"][2:, -11:-1]
    cache = model(input_ids=ids, use_cache=True).past_key_values
    with model.disable_adapter():
        base = model(input_ids=ids, use_cache=True).past_key_values
    for mine, its in zip(cache.layers, base.layers, strict=True):
        assert torch.equal(mine.keys[:, :, :7], its.keys[:, :, :7])
        assert torch.equal(mine.values[:, :, :7], its.values[:, :, :7])
        assert (mine.values[:, :, 7:] != its.values[:, :, 7:]).any(-1).all()


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_decoding_with_and_without_a_cache_gives_the_tokens_of_the_definition(architecture):
    """The update goes on behind the prompt, for every token that is generated; rows are padded on the left."""
    model = adapted(architecture)
    reference = reference_of(model, architecture)
    prompts = [
        batch()[0]["input_ids"][i, -(p + a) :][:p].tolist()
        for i, (p, a) in enumerate(zip(PROMPTS, ANSWERS, strict=True))
    ]
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(5):
            acted = (torch.arange(len(ids)) >= len(prompt) - 2)[None]
            with torch.no_grad():
                ids.append(reference.acting_on(default=acted).model(torch.tensor([ids])).logits[0, -1].argmax().item())
        expected.append(ids[len(prompt) :])
    width = max(map(len, prompts))
    padded = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    for use_cache in (True, False):
        made = model.generate(
            input_ids=padded,
            attention_mask=mask,
            max_new_tokens=5,
            min_new_tokens=5,
            do_sample=False,
            use_cache=use_cache,
        )
        assert made[:, width:].tolist() == expected


def test_packed_sequences_are_acted_on_each_by_its_own_prompt():
    model = adapted()
    inputs, acted = batch()
    rows = [inputs["attention_mask"][i].bool() for i in range(len(PROMPTS))]
    joined = {
        key: torch.cat([inputs[key][i, row] for i, row in enumerate(rows)])[None] for key in ("input_ids", "labels")
    }
    numbers = torch.cat([torch.arange(int(row.sum())) for row in rows])[None]
    flags = torch.cat([acted[i, row] for i, row in enumerate(rows)])[None]
    reference = reference_of(model).acting_on(default=flags)
    assert torch.allclose(
        model(**joined, position_ids=numbers).logits, reference.model(**joined, position_ids=numbers).logits, atol=1e-5
    )


def test_adapters_side_by_side_act_on_their_own_tokens_only_and_fused_cost_one_product(monkeypatch):
    from heft.reft.layout import TokenLayout
    from heft.training import fused_lora as module

    model = adapted(positions="l2")
    model.add_adapter("other", ActivatedLoraConfig(positions="l4", **(LINEAR | {"r": 5})))
    shaken(model)
    model.base_model.set_adapter(["default", "other"])
    tracker = tracker_of(model)
    tracker.adapter_index.update({"default": 0, "other": 1})
    ids = torch.randint(3, 259, (2, 12), generator=torch.Generator().manual_seed(0))
    adapter_BT = torch.tensor([[0] * 12, [1] * 12])
    layout = TokenLayout(torch.arange(12).expand(2, -1), torch.tensor([9, 8]), adapter_BT)
    masks = {"default": torch.zeros(2, 12), "other": torch.zeros(2, 12)}
    masks["default"][0, 7:], masks["other"][1, 4:] = 1, 1
    reference = reference_of(model).acting_on(**masks)
    target = torch.randn(2, 12, 259, generator=torch.Generator().manual_seed(4))
    expected = (reference.model(ids).logits * target).sum()
    calls, apply = [], module._FusedLora.apply
    monkeypatch.setattr(module._FusedLora, "apply", lambda *args: calls.append(1) or apply(*args))
    for fused in (False, True):
        with fused_lora(model, fused) as layers:
            loss = (model(input_ids=ids, token_layout=layout).logits * target).sum()
            assert loss.item() == rounded(expected.item())
            for name in ("default", "other"):
                found = gradients_of(
                    model,
                    loss if name == "other" else (model(input_ids=ids, token_layout=layout).logits * target).sum(),
                    name,
                )
                assert_gradients(found, reference.gradients((reference.model(ids).logits * target).sum(), name))
    assert len(calls) == 2 * layers


def test_a_pass_without_a_layout_is_acted_on_by_none_of_the_adapters_side_by_side():
    model = adapted()
    tracker_of(model).adapter_index["default"] = 0
    ids = batch()[0]["input_ids"][:, -5:]
    with model.disable_adapter():
        plain = model(input_ids=ids).logits
    for fused in (False, True):
        with fused_lora(model, fused):
            assert torch.equal(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, plain)


def test_bfloat16_is_as_near_to_float64_as_peft_rounds():
    model = adapted().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    inputs, acted = batch()
    plain = tiny.tiny_model().to(torch.bfloat16)
    exact = MaskedLora(plain.double(), copy.deepcopy(model).double()).acting_on(default=acted)
    expected, columns = exact.model(**inputs).logits, inputs["attention_mask"].bool()
    for fused in (False, True):
        with fused_lora(model, fused):
            mine = model(**inputs).logits.double()
        assert (mine - expected)[columns].abs().max() < 2**-4 * expected[columns].abs().max()


def test_dropout_is_drawn_for_the_tokens_it_acts_on_alone():
    model = adapted(lora_dropout=0.5)
    inputs, acted = batch()
    seen = []
    for layer in model.modules():
        if getattr(layer, "lora_dropout", None):
            layer.lora_dropout["default"].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))
    model.train()
    with fused_lora(model):
        model(**inputs)
    assert set(seen) == {int(acted.sum())}


@pytest.mark.parametrize("fused", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(fused):
    model = adapted()
    inputs, _ = batch()
    model.train()
    expected = gradients_of(model, model(**inputs).loss, "default")
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    with fused_lora(model, fused):
        found = gradients_of(model, model(**inputs, use_cache=False).loss, "default")
    assert_gradients(found, expected)


def test_it_compiles_to_the_same_logits():
    model = adapted(model=tiny.tiny_model(num_hidden_layers=1))
    inputs, _ = batch()
    expected = model(**inputs).logits
    compiled = torch.compile(model, backend="eager")
    assert torch.allclose(compiled(**inputs).logits, expected, atol=1e-5)


def test_it_stands_beside_an_edit_of_hidden_states_and_one_tracker_serves_both():
    model = tiny.tiny_model()
    torch.manual_seed(0)
    get_peft_model(model, ActivatedLoraConfig(positions="l2", **LINEAR), adapter_name="coarse")
    tracker = tracker_of(model)
    both = get_peft_model(model, ReftConfig(task_type="CAUSAL_LM", positions="l1+"), adapter_name="fine")
    assert tracker_of(both) is tracker
    assert len(tracker.positions()) == 2
    both.delete_adapter("fine")
    assert tracker_of(model) is tracker
    for layer in model.modules():
        if getattr(layer, "lora_variant", None):
            layer.delete_adapter("coarse")
    tracker.release()
    assert tracker_of(model) is None
    assert not model._forward_pre_hooks
    assert "generate" not in vars(model)


def test_a_training_pass_without_prompt_lengths_is_refused_and_with_them_not():
    model = adapted().train()
    inputs, _ = batch()
    with pytest.raises(ValueError, match="prompt_lengths"):
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    labelled = model(**inputs).logits
    given = model(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], prompt_lengths=list(PROMPTS)
    ).logits
    assert torch.equal(labelled, given)


def test_nothing_merges_it_or_makes_it_lora_of_all_tokens():
    model = adapted()
    before = copy.deepcopy(model.state_dict())
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match="cannot be merged"):
            merge()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    layer = next(m for m in model.modules() if getattr(m, "lora_variant", None))
    with pytest.raises(ValueError, match="cannot be merged"):
        layer.merge()
    with pytest.raises(TypeError, match="do not support LoRA conversion"):
        convert_to_lora(model, rank=2)
    plain = model.unload()
    assert tracker_of(plain) is None
    assert not any(isinstance(m, ActivatedVariant) for m in plain.modules())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"positions": "f2"}, "'all' or 'lN\\+'"),
        ({"positions": 7}, "'all' or 'lN\\+' .*; got 7"),
        ({"positions": "all"}, "which is LoraConfig"),
        ({"use_dora": True}, "use_dora"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"bias": "all"}, "bias"),
        ({"positions": "l2", "invocation_tokens": [1, 2, 3]}, "3 invocation_tokens"),
    ],
)
def test_what_positions_cannot_be_told_for_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        ActivatedLoraConfig(**(LINEAR | {"positions": "l2"} | options))


def test_a_saved_adapter_loads_to_the_same_logits_and_plain_peft_has_no_such_type(tmp_path):
    model = adapted()
    inputs, _ = batch()
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny.tiny_model(), tmp_path)
    assert again.peft_config["default"].positions == "l2+"
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert '"peft_type": "ACTIVATED_LORA"' in (tmp_path / "adapter_config.json").read_text()


def test_a_copied_model_follows_its_own_passes():
    model = adapted()
    inputs, _ = batch()
    copied = copy.deepcopy(model)
    assert tracker_of(copied) is not tracker_of(model)
    assert torch.equal(copied(**inputs).logits, model(**inputs).logits)


def test_an_update_of_all_tokens_beneath_it_stays_on_all_tokens():
    model = tiny.tiny_model()
    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(**LINEAR), adapter_name="coarse")
    wrapped = get_peft_model(model, ActivatedLoraConfig(positions="l2", **LINEAR), adapter_name="later")
    shaken(wrapped)
    wrapped.base_model.set_adapter(["coarse", "later"])
    inputs, acted = batch()
    reference = reference_of(wrapped).acting_on(coarse=torch.ones_like(acted), later=acted)
    for fused in (False, True):
        with fused_lora(wrapped, fused):
            assert torch.allclose(wrapped(**inputs).logits, reference.model(**inputs).logits, atol=1e-5)
