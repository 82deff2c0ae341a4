"""Attaching, freezing and describing stages."""

import pytest
import torch

import tiny
from heft.adapters.attach import (
    adapter_parameters,
    attach,
    check_targets,
    finish,
    overview,
    train_only,
)
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.recipe.recipe import JointStage, LoraStage, ReftStage

LORA = LoraStage(method="lora", rank=2, targets=["q_proj"], steps=1)
REFT = ReftStage(method="reft", rank=2, positions="l2", steps=1)
IDS = torch.arange(3, 20)[None]


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def shake(model, name):
    with torch.no_grad():
        for parameter in adapter_parameters(model, [name]).values():
            parameter.add_(0.3)


def trains(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "stages",
    [[("a", LORA)], [("a", REFT)], [("a", LORA), ("b", REFT)], [("a", REFT), ("b", LORA)], [("a", LORA), ("b", LORA)],
     [("a", REFT), ("b", REFT)], [("a", LORA), ("b", REFT), ("c", LORA)]],
)  # fmt: skip
def test_a_stage_trains_alone_on_top_of_all_earlier_ones_which_stay_active(stages):
    model = tiny.tiny_model()
    for name, stage in stages:
        before = logits(model)
        attached = attach(model, name, stage)
        assert torch.allclose(logits(model), before, atol=1e-6), "a new stage starts from what the last one left"
        assert trains(model) == set(adapter_parameters(model, [name]))
        shake(model, name)
        assert (logits(model) - before).abs().max() > 1e-3
        finish(model, attached)
        assert not trains(model)
    final = logits(model)
    for name, _ in stages:
        kept = {key: p.clone() for key, p in adapter_parameters(model, [name]).items()}
        with torch.no_grad():
            for parameter in adapter_parameters(model, [name]).values():
                parameter.mul_(-1.5)
        assert (logits(model) - final).abs().max() > 1e-4, f"{name} is not active at the end"
        with torch.no_grad():
            for key, parameter in adapter_parameters(model, [name]).items():
                parameter.copy_(kept[key])


def test_a_joint_stage_trains_both_kinds():
    model = tiny.tiny_model()
    stage = JointStage(method="joint", lora={"rank": 2, "targets": ["q_proj"]}, reft={"rank": 2}, steps=1)
    attached = attach(model, "both", stage)
    assert attached.names == ["both_lora", "both_reft"]
    assert trains(model) == set(adapter_parameters(model, ["both_lora", "both_reft"]))


def test_the_overview_counts_parameters_and_says_what_trains():
    model = tiny.tiny_model()
    base = sum(p.numel() for p in model.parameters())
    finish(model, attach(model, "coarse", LORA))
    attach(model, "fine", REFT)
    rows = {row.name: row for row in overview(model)}
    assert (rows["base"].state, rows["base"].parameters) == ("frozen, active", base)
    assert (rows["coarse"].method, rows["coarse"].state) == ("lora", "frozen, active")
    assert rows["coarse"].parameters == 3 * (2 * 32 + 2 * 32)
    assert (rows["fine"].method, rows["fine"].state) == ("reft", "trains, active")
    assert rows["fine"].parameters == 3 * (2 * 32 + 2 * 32 + 2) == model.num_parameters(only_trainable=True)


def test_train_only_finds_nothing_for_a_name_that_is_part_of_another():
    model = tiny.tiny_model()
    finish(model, attach(model, "coarse", LORA))
    train_only(model, ["coars"])
    assert not trains(model)


def test_every_adapter_without_a_place_is_reported_before_training(recipe_file):
    path = recipe_file(
        "{coarse: {method: lora, targets: [q_prj]}, fine: {method: reft, layers: [7], rank: 99},"
        " both: {method: joint}, both_lora: {method: lora}}"
    )
    with pytest.raises(HeftError) as error:
        check_targets(tiny.tiny_model(), load_recipe(path))
    text = str(error.value)
    assert "stages.coarse: targets: 'q_prj' matches no linear module of this model; there are: q_proj" in text
    assert "stages.fine: rank: 99 is above the model's hidden size, 32" in text
    assert "stages.fine: layers [7] do not exist: this model has 3 layers" in text
    assert "two adapters would be named 'both_lora'" in text


@pytest.mark.parametrize("name", ["train", "keys", "forward", "to"])
def test_a_stage_cannot_have_a_name_that_torch_keeps_for_itself(recipe_file, name):
    recipe = load_recipe(recipe_file(f"{{{name}: {{method: lora, steps: 1}}}}"))
    with pytest.raises(HeftError, match=f"stages.{name}: PyTorch reserves the name '{name}'"):
        check_targets(tiny.tiny_model(), recipe)


@pytest.mark.parametrize("name", ["layers", "mlp", "q_proj", "weight", "base_layer", "reft", "norm"])
def test_a_stage_cannot_have_the_name_of_a_part_of_the_model(recipe_file, name):
    recipe = load_recipe(recipe_file(stages={name: {"method": "lora", "rank": 2, "steps": 1}}))
    with pytest.raises(HeftError, match=f"stages.{name}: a part of the model is named '{name}'; rename the stage"):
        check_targets(tiny.tiny_model(), recipe)


@pytest.mark.parametrize("stages", [[("mlp", LORA)], [("q_proj", LORA), ("reft", REFT)], [("a", REFT), ("reft", REFT)]])
def test_an_adapter_named_like_a_part_of_the_model_is_not_taken_for_it(stages):
    model = tiny.tiny_model()
    for name, stage in stages:
        attached = attach(model, name, stage)
        alone = tiny.tiny_model()
        attach(alone, "plain", stage)
        assert model.num_parameters(only_trainable=True) == alone.num_parameters(only_trainable=True)
        finish(model, attached)
