"""The edit hangs beside the model's own modules and leaves them be (mistakes 4, 8 and 10 of others)."""

import copy

import pytest
import torch

from heft.reft import ReftConfig
from heft.reft.interventions import Intervention
from reft.support import logits, perturb, reft_layers, reft_parameters, token_ids, with_reft
from tiny import tiny_model

HIDDEN, RANK, LAYERS = 32, 4, 3
LOREFT_UNIT = 2 * RANK * HIDDEN + RANK


@pytest.mark.parametrize(
    ("settings", "units"),
    [
        ({"positions": "l4"}, ["last"]),
        ({"positions": "f4"}, ["first"]),
        ({"positions": "all"}, ["shared"]),
        ({"positions": "f1+l1"}, ["shared"]),
        ({"positions": "f1+l1", "tied": False}, ["first", "last"]),
    ],
)
def test_mistake_8_units_that_nothing_uses_are_not_allocated(settings, units):
    model = with_reft(trained=False, **settings)
    assert sum(p.numel() for p in reft_parameters(model).values()) == LAYERS * len(units) * LOREFT_UNIT
    assert model.get_nb_trainable_parameters()[0] == LAYERS * len(units) * LOREFT_UNIT
    for layer in reft_layers(model):
        assert [p for p in ("shared", "first", "last") if len(getattr(layer, f"reft_{p}"))] == sorted(
            units, key=["shared", "first", "last"].index
        )


@pytest.mark.parametrize("settings", [{"positions": "l4"}, {"positions": "f1+l1", "tied": False}])
def test_mistake_8_every_allocated_unit_takes_part(settings):
    model, ids = with_reft(**settings), token_ids(1, 6)
    before = logits(model, ids)
    for name, parameter in reft_parameters(model).items():
        if name.endswith("bias"):
            parameter.data += 1.0
            assert not torch.allclose(logits(model, ids), before, atol=1e-4), name
            parameter.data -= 1.0


def test_no_module_of_the_model_is_renamed_or_replaced():
    plain, model = tiny_model(), with_reft()
    names = [name for name, _ in model.get_base_model().named_modules() if "reft" not in name]
    assert names == [name for name, _ in plain.named_modules()]
    base_keys = [key for key in model.get_base_model().state_dict() if ".reft." not in key]
    assert base_keys == list(plain.state_dict())


def test_recorded_hidden_states_are_the_edited_ones():
    """hidden_states[k+1] is block k's output; the states after the last block pass the final norm first."""
    model, ids = with_reft(intervention="lobireft", layers=[0], positions="l1"), token_ids(2, 7)
    unit = reft_layers(model)[0].reft_last["default"]
    with torch.no_grad():
        edited = model(input_ids=ids, output_hidden_states=True).hidden_states[1]
        shift = unit(torch.zeros(1, HIDDEN))[0]
        with model.disable_adapter():
            plain = model(input_ids=ids, output_hidden_states=True).hidden_states[1]
    assert torch.allclose(edited[:, -1] - plain[:, -1], shift.expand(2, -1), atol=1e-5)
    assert torch.equal(edited[:, :-1], plain[:, :-1])


@pytest.mark.parametrize(("site", "child"), [("attention", "self_attn"), ("mlp", "mlp")])
def test_a_site_inside_the_block_edits_that_modules_output(site, child):
    model, ids = with_reft(intervention="lobireft", layers=[1], site=site, positions="l1"), token_ids(1, 5)
    block = model.get_base_model().model.layers[1]
    outputs = []
    block.get_submodule(child).register_forward_hook(
        lambda _, args, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    logits(model, ids)
    with model.disable_adapter():
        logits(model, ids)
    changed = (outputs[0] - outputs[1]).reshape(5, HIDDEN)
    unit = block.get_submodule(child).reft.reft_last["default"]
    assert torch.allclose(changed[-1], unit(torch.zeros(1, HIDDEN))[0], atol=1e-5)
    assert torch.equal(changed[:-1], torch.zeros(4, HIDDEN))


def all_hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("way", ["unload", "delete_adapter"])
def test_mistake_10_a_users_own_hooks_survive_attaching_and_detaching(way):
    base, seen = tiny_model(), []
    places = [base, base.model, base.model.layers[0], base.model.layers[0].mlp]
    for place in places:
        place.register_forward_hook(lambda *_: seen.append("after"))
        place.register_forward_pre_hook(lambda *_: seen.append("before"))
    model = with_reft(base, site="mlp")
    logits(model, token_ids(1, 5))
    assert len(seen) == 2 * len(places)
    base = model.unload() if way == "unload" else base
    if way == "delete_adapter":
        model.delete_adapter("default")
    seen.clear()
    logits(base, token_ids(1, 5))
    assert len(seen) == all_hooks(base) == 2 * len(places)


def test_a_users_later_hook_on_the_same_block_sees_the_edited_output():
    model, ids, seen = with_reft(layers=[0]), token_ids(1, 5), []
    model.get_base_model().model.layers[0].register_forward_hook(lambda _, args, output: seen.append(output))
    with torch.no_grad():
        recorded = model(input_ids=ids, output_hidden_states=True).hidden_states[1]
    assert torch.equal(seen[0], recorded)


def test_the_layer_has_no_weight_of_its_own_to_be_asked_for():
    layer = reft_layers(with_reft())[0]
    assert not hasattr(layer, "weight")
    assert not hasattr(layer, "bias")


def test_adding_an_adapter_again_under_its_name_starts_it_anew_at_one_unit_per_site():
    model = with_reft(positions="f1+l1", tied=False)
    layer = reft_layers(model)[0]
    layer.add("default", ReftConfig(positions="l1"), HIDDEN, torch.device("cpu"))
    assert [len(layer.reft_shared), len(layer.reft_first), len(layer.reft_last)] == [0, 0, 1]


def test_new_units_are_made_on_the_device_of_their_site():
    layer = reft_layers(with_reft())[0]
    layer.add("more", ReftConfig(positions="l1"), HIDDEN, torch.device("meta"))
    assert all(parameter.is_meta for parameter in layer.reft_last["more"].parameters())


@pytest.mark.parametrize("switched", [[True], [False, True], [False, False, True]])
def test_what_trained_trains_again_however_often_adapters_were_switched(switched):
    model = with_reft()
    for layer in reft_layers(model):
        for enabled in switched:
            layer.enable_adapters(enabled)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(reft_parameters(model))


def test_two_adapters_that_are_active_together_both_act_one_after_the_other():
    ids = token_ids(2, 7)
    model = with_reft(adapter_name="one", positions="f1+l1")
    model.add_adapter("two", ReftConfig(task_type="CAUSAL_LM", positions="l2", intervention="direft"))
    perturb(model)
    results = []
    for names in (["one"], ["two"], ["one", "two"]):
        model.base_model.set_adapter(names)
        results.append(logits(model, ids))
    units = [module for module in model.modules() if isinstance(module, Intervention)]
    for zeroed, other in (("one", 1), ("two", 0)):
        silent = copy.deepcopy(model)
        for name, parameter in reft_parameters(silent).items():
            if f".{zeroed}." in name:  # W = R and b = 0 (loreft), W₂ = 0 (direft): the identity
                key = name.rpartition(".")[2]
                parameter.data.zero_() if key in ("bias", "basis") else parameter.data.copy_(torch.eye(RANK, HIDDEN))
        assert torch.allclose(logits(silent, ids), results[other], atol=1e-5)
    assert len(units) == 2 * LAYERS
    assert not torch.allclose(results[2], results[0], atol=1e-3)
    assert not torch.allclose(results[2], results[1], atol=1e-3)
