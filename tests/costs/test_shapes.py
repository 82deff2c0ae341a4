"""Shapes of stages' models: looked at once, and never those of another model."""

import json

import pytest
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig

from heft.builtin import tiny_llama
from heft.costs import shapes
from heft.costs.shapes import base_costs, forget_shapes, shape_of_stage
from heft.recipe.files import load_recipe

STAGES = "{coarse: {method: lora, rank: 2, epochs: 1}, fine: {method: reft, positions: l2, rank: 2, epochs: 1}}"


@pytest.fixture
def looked(monkeypatch, fresh_shapes):
    """How many models have been looked at."""
    found = []
    monkeypatch.setattr(shapes, "skeleton_of", lambda *a, f=shapes.skeleton_of: found.append(a) or f(*a))
    return found


@pytest.fixture
def fine_shape(recipe_file):
    """The shape of the stage `fine` with some settings of a recipe changed."""

    def of(*sets, eager=False):
        return shape_of_stage(load_recipe(recipe_file(STAGES), sets), "fine", eager)

    return of


@pytest.mark.parametrize(
    "change", ["fine.epochs=3", "coarse.learning_rate=3e-3", "fine.batch_size=2", "coarse.seed=4", "fine.reuse=false"]
)
def test_how_a_stage_is_trained_is_no_reason_to_look_again(fine_shape, looked, change):
    before = fine_shape()
    assert fine_shape(f"stages.{change}") is before
    assert len(looked) == 1


@pytest.mark.parametrize(
    "change",
    [
        "stages.coarse.rank=3",
        "stages.coarse.positions=l2",
        "stages.coarse.targets=[q_proj]",
        "stages.fine.rank=3",
        "stages.fine.positions=l3",
        "stages.fine.layers=[1]",
        "stages.fine.intervention=direft",
        "stages.fine.site=attention",
        "model.dtype=bfloat16",
        "model.attention=eager",
    ],
)
def test_another_model_has_the_shape_that_it_has_alone(fine_shape, looked, change):
    fine_shape()
    behind_another = fine_shape(change)
    assert len(looked) == 2
    forget_shapes()
    assert fine_shape(change) == behind_another


def test_eager_attention_keeps_scores_that_sdpa_does_not(fine_shape, looked):
    assert fine_shape(eager=True).costs.saved.pair > fine_shape().costs.saved.pair
    assert fine_shape(eager=True).costs.token == fine_shape().costs.token
    assert len(looked) == 2


def test_a_stage_behind_others_is_not_one_alone(recipe_file, looked):
    both, alone = load_recipe(recipe_file(STAGES)), load_recipe(recipe_file("{fine: {method: reft, positions: l2}}"))
    assert shape_of_stage(both, "fine").costs.token.forward > shape_of_stage(alone, "fine").costs.token.forward


def test_a_folder_whose_config_changes_is_looked_at_again(recipe_file, tmp_path, looked):
    tiny_llama().config.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    recipe = load_recipe(recipe_file(STAGES, base=str(tmp_path / "model")))
    before = shape_of_stage(recipe, "coarse"), base_costs(recipe)
    assert (shape_of_stage(recipe, "coarse"), base_costs(recipe)) == before
    assert len(looked) == 2
    LlamaConfig(**{**config, "num_hidden_layers": config["num_hidden_layers"] + 1}).save_pretrained(tmp_path / "model")
    after = shape_of_stage(recipe, "coarse"), base_costs(recipe)
    assert after[0].trainable_parameters > before[0].trainable_parameters
    assert after[1].token.forward > before[1].token.forward


def test_what_was_seen_first_is_looked_at_again_where_there_is_too_much(fine_shape, looked, monkeypatch):
    monkeypatch.setattr(shapes, "_MOST_KEPT", 2)
    for rank, count in ((1, 1), (2, 2), (1, 2), (3, 3), (2, 3), (1, 4)):
        fine_shape(f"stages.fine.rank={rank}")
        assert len(looked) == count


def test_an_adapter_that_is_there_is_told_by_its_own_configuration(recipe_file, tmp_path, looked):
    def saved(rank):
        config = LoraConfig(r=rank, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
        get_peft_model(tiny_llama(), config).save_pretrained(tmp_path / "lora")
        recipe = load_recipe(recipe_file(f"{{coarse: {{method: lora, from: '{tmp_path / 'lora'}', epochs: 1}}}}"))
        return shape_of_stage(recipe, "coarse").trainable_parameters

    first, again, wider = saved(2), saved(2), saved(4)
    assert first == again == wider / 2
    assert len(looked) == 2
