"""Attaching, saving, loading and taking off, on every architecture (mistakes 4 and 9 of others)."""

import copy

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model, inject_adapter_in_model
from transformers import BertForSequenceClassification, LlamaForSequenceClassification

from heft.reft import ReftConfig
from reft.support import edited_tokens, logits, perturb, reft_layers, reft_parameters, token_ids, with_reft
from tiny import ARCHITECTURES, tiny_model

SITES = ["block", "attention", "mlp"]
HEADS = ("score.weight", "classifier.weight")


def train_one_step(model, ids: torch.Tensor) -> None:
    labels = ids.clone()
    labels[:, :5] = -100
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()(input_ids=ids, labels=labels).loss.backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("site", SITES)
def test_a_trained_adapter_reloads_to_the_bit(architecture, site, tmp_path):
    ids, base = token_ids(2, 8), tiny_model(architecture)
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    model = with_reft(base, trained=False, site=site, positions="f2+l2", tied=False)
    before = logits(model, ids)
    assert torch.equal(before, logits(tiny_model(architecture), ids))
    train_one_step(model, ids)
    after = logits(model, ids)
    assert not torch.allclose(after, before, atol=1e-4)
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_model(architecture), tmp_path / "adapter"), ids), after)
    assert torch.equal(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter"), ids), after)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_adapter_on_the_first_block_edits_just_its_positions(architecture):
    assert edited_tokens(with_reft(architecture, layers=[0], positions="f1+l2"), token_ids(1, 8)) == [{0, 6, 7}]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_another_base_of_the_same_shape_takes_the_adapters_tensors(architecture, tmp_path):
    """The file holds just the adapter's tensors, under names without the adapter's own."""
    model = with_reft(architecture, adapter_name="mine")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(architecture), tmp_path / "mine", adapter_name="yours")
    ours, theirs = reft_parameters(model), reft_parameters(loaded)
    assert [name.replace(".mine.", ".yours.") for name in ours] == list(theirs)
    assert all(torch.equal(one, two) for one, two in zip(ours.values(), theirs.values(), strict=True))


@pytest.mark.parametrize("make", [LlamaForSequenceClassification, BertForSequenceClassification])
def test_the_new_head_of_a_model_that_classifies_is_trained_and_saved(make, tmp_path):
    def base():
        torch.manual_seed(0)
        sizes = {"vocab_size": 400, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
        return make(make.config_class(**sizes, num_attention_heads=2, num_labels=3, pad_token_id=0))

    ids, before = token_ids(2, 8), base().state_dict()
    model = get_peft_model(base(), ReftConfig(task_type="SEQ_CLS", positions="all", rank=2))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()(input_ids=ids, labels=torch.tensor([0, 2])).loss.backward()
    optimizer.step()
    model.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(), tmp_path)
    trained = next(p for name, p in loaded.named_parameters() if "modules_to_save" in name)
    assert not torch.equal(trained, next(value for key, value in before.items() if key.endswith(HEADS)))
    assert torch.equal(logits(loaded, ids), logits(model, ids))
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), logits(base().eval(), ids))


def test_loading_without_first_making_weights_gives_the_same_ones(tmp_path):
    model, ids = with_reft(positions="f2+l2", tied=False), token_ids(2, 8)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path, low_cpu_mem_usage=True)
    loaded.load_adapter(tmp_path, adapter_name="again", low_cpu_mem_usage=True)
    loaded.to(ids.device)  # PEFT's low_cpu_mem_usage puts weights on the accelerator where there is one
    for name in ("default", "again"):
        loaded.set_adapter(name)
        assert torch.allclose(logits(loaded, ids), logits(model, ids), atol=1e-5)


def test_a_loaded_adapter_is_frozen_unless_it_is_asked_to_train(tmp_path):
    with_reft().save_pretrained(tmp_path)
    for trainable in (False, True):
        loaded = PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=trainable)
        assert {p.requires_grad for p in reft_parameters(loaded).values()} == {trainable}


def test_disable_adapter_gives_the_logits_of_the_base_exactly():
    ids, model = token_ids(2, 8), with_reft(intervention="consreft")
    edited, base = logits(model, ids), logits(tiny_model(), ids)
    with model.disable_adapter():
        assert torch.equal(logits(model, ids), base)
    assert torch.equal(logits(model, ids), edited)
    assert not torch.allclose(edited, base, atol=1e-2)


def state_of(model) -> dict:
    """What attaching could leave behind: modules, hooks, attributes of the instances."""
    return {
        name: (
            sorted(set(vars(module)) - {"_is_hf_initialized"}),
            sorted(module._modules),
            *(list(getattr(module, kind).values()) for kind in ("_forward_hooks", "_forward_pre_hooks")),
            *(len(getattr(module, kind)) for kind in ("_forward_hooks_with_kwargs", "_forward_hooks_always_called")),
        )
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("way", ["unload", "delete_adapter"])
def test_taking_the_adapter_off_leaves_no_child_hook_or_attribute(site, way):
    base, ids = tiny_model(), token_ids(2, 8)
    before, plain = state_of(base), logits(base, ids)
    model = with_reft(base, site=site)
    assert "generate" in vars(base)
    model.generate(input_ids=ids, max_new_tokens=2)
    if way == "unload":
        assert model.unload() is base
    else:
        model.delete_adapter("default")
        del base.peft_config  # PEFT's own, which it leaves empty
    assert state_of(base) == before
    assert torch.equal(logits(base, ids), plain)
    again = with_reft(base, site=site)
    assert torch.equal(logits(again, ids), logits(with_reft(site=site), ids))


def test_deleting_one_of_two_adapters_detaches_just_the_places_that_only_it_edited():
    ids, model = token_ids(2, 8), with_reft(adapter_name="one", layers=[0, 1])
    alone = logits(model, ids)
    model.add_adapter("two", ReftConfig(task_type="CAUSAL_LM", layers=[1, 2]))
    assert len(reft_layers(model)) == 3
    model.delete_adapter("two")
    assert len(reft_layers(model)) == 2
    assert torch.equal(logits(model, ids), alone)
    assert "generate" in vars(model.get_base_model())


def test_a_second_adapter_is_not_active_and_does_not_train_until_it_is_set():
    ids, model = token_ids(2, 8), with_reft(adapter_name="one")
    alone = logits(model, ids)
    model.add_adapter("two", ReftConfig(task_type="CAUSAL_LM", intervention="consreft", layers=[0]))
    assert torch.equal(logits(model, ids), alone)
    assert not any(p.requires_grad for name, p in reft_parameters(model).items() if ".two." in name)
    model.set_adapter("two")
    assert not torch.allclose(logits(model, ids), alone, atol=1e-3)


def test_a_deep_copy_is_independent_of_the_original():
    ids, model = token_ids(2, 8), with_reft(positions="f2+l2")
    before, answer = logits(model, ids), model.generate(input_ids=ids, max_new_tokens=4)
    twin = copy.deepcopy(model)
    perturb(model, seed=9)
    assert not torch.allclose(logits(model, ids), before, atol=1e-2)
    assert torch.equal(logits(twin, ids), before)
    assert torch.equal(twin.generate(input_ids=ids, max_new_tokens=4), answer)
    originals = {id(module) for module in model.modules()}
    assert not originals & {id(module) for module in twin.modules()}
    assert reft_layers(twin)[0].tracker is not reft_layers(model)[0].tracker
    assert all(layer in reft_layers(twin) for layer in reft_layers(twin)[0].tracker.layers)
    model.unload()
    assert torch.equal(logits(twin, ids), before)


def test_the_whole_model_can_be_pickled_and_read_back(tmp_path):
    ids, model = token_ids(2, 8), with_reft()
    torch.save(model, tmp_path / "model.pt")
    assert torch.equal(logits(torch.load(tmp_path / "model.pt", weights_only=False), ids), logits(model, ids))


def test_a_model_whose_weights_are_on_disk_between_passes_edits_as_before(tmp_path):
    from accelerate import disk_offload

    model, ids = with_reft(positions="f1+l2"), token_ids(2, 7)
    before = logits(model, ids)
    disk_offload(model, tmp_path, execution_device="cpu")
    torch.testing.assert_close(logits(model, ids), before)


@pytest.mark.parametrize("call", ["merge_adapter", "merge_and_unload"])
def test_merging_an_edit_into_weights_is_refused_and_changes_nothing(call):
    ids, model = token_ids(2, 8), with_reft()
    before = logits(model, ids)
    with pytest.raises(ValueError, match="edit.* hidden states and cannot be merged"):
        getattr(model, call)()
    assert torch.equal(logits(model, ids), before)


def test_mistake_9_an_adapter_for_each_row_is_refused_and_not_ignored():
    ids, model = token_ids(2, 8), with_reft(adapter_name="one")
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="leave out adapter_names"):
            call(input_ids=ids, adapter_names=["__base__", "one"])


def test_injecting_without_a_peft_model_gives_the_same_edits():
    ids = token_ids(2, 8)
    torch.manual_seed(5)
    injected = perturb(inject_adapter_in_model(ReftConfig(positions="f2+l2"), tiny_model()))
    assert torch.equal(logits(injected, ids), logits(with_reft(positions="f2+l2"), ids))


def test_the_adapters_weights_do_not_change_with_the_order_in_which_layers_are_named():
    ids = token_ids(2, 8)
    assert torch.equal(logits(with_reft(layers=[2, 0]), ids), logits(with_reft(layers=[0, -1]), ids))


def test_a_config_can_be_used_for_a_second_model():
    config, ids = ReftConfig(task_type="CAUSAL_LM", layers=[-1]), token_ids(2, 8)
    first = get_peft_model(tiny_model(), config)
    second = get_peft_model(tiny_model("gemma3"), config)
    assert logits(first, ids).shape == logits(second, ids).shape
    assert config.layers == [-1]
