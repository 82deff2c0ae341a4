"""Settings that follow from the rows and the model: each rule, and that a number in the recipe overrides it."""

import pytest

from heft.recipe.defaults import (
    Facts,
    chosen_in_words,
    epochs_for,
    rate_for,
    settled,
    with_defaults,
    with_defaults_of,
)
from heft.recipe.files import load_recipe
from heft.recipe.grid import configurations
from tiny_recipe import write_recipe

SMALL = Facts(rows=100, parameters=135_000_000)


def recipe_with(tmp_path, stages):
    return load_recipe(write_recipe(tmp_path, stages))


@pytest.mark.parametrize(
    ("rows", "epochs"), [(20, 12), (100, 12), (300, 7), (640, 3), (1_000, 3), (2_999, 3), (3_000, 2), (20_000, 1)]
)
def test_few_rows_are_seen_more_often(rows, epochs):
    assert epochs_for(rows, batch_size=16) == epochs


def test_a_larger_batch_takes_more_epochs_for_as_many_steps():
    assert epochs_for(600, batch_size=32) == 2 * epochs_for(600, batch_size=16) - 1 == 7


@pytest.mark.parametrize(
    ("parameters", "lora", "reft"), [(135e6, 1e-3, 2e-3), (1e9, 5e-4, 1e-3), (3e9, 5e-4, 1e-3), (7e9, 2e-4, 5e-4)]
)
def test_larger_models_take_smaller_learning_rates(parameters, lora, reft):
    assert (rate_for("lora", parameters), rate_for("reft", parameters)) == (lora, reft)


def test_each_stage_gets_the_numbers_of_its_method(tmp_path):
    recipe = with_defaults(recipe_with(tmp_path, "{a: {method: lora}, b: {method: reft}, c: {method: joint}}"), SMALL)
    a, b, c = recipe.stages.values()
    assert (a.learning_rate, b.learning_rate) == (1e-3, 2e-3)
    assert (c.learning_rate, c.reft_learning_rate) == (1e-3, 2e-3)
    assert {stage.epochs for stage in recipe.stages.values()} == {12}


def test_what_the_recipe_says_stays(tmp_path):
    stages = "{a: {method: lora, learning_rate: 3e-4}, b: {method: reft, steps: 5}, c: {method: joint, epochs: 2.5}}"
    a, b, c = with_defaults(recipe_with(tmp_path, stages), SMALL).stages.values()
    assert (a.learning_rate, a.epochs) == (3e-4, 12)
    assert (b.steps, b.epochs) == (5, None)
    assert c.epochs == 2.5


def test_a_recipe_without_auto_stays_and_nothing_is_said_of_it(tmp_path):
    recipe = recipe_with(tmp_path, "{a: {method: lora, learning_rate: 3e-4, steps: 2}}")
    assert with_defaults(recipe, SMALL) == recipe
    assert chosen_in_words(recipe, SMALL) == []


def test_what_was_chosen_is_said_with_the_reason(tmp_path):
    recipe = recipe_with(tmp_path, "{a: {method: lora}, b: {method: reft, epochs: 1}}")
    assert chosen_in_words(recipe, SMALL) == [
        "a: epochs 12, learning_rate 0.001 (auto, for 100 rows and 135 million parameters)",
        "b: learning_rate 0.002 (auto, for 100 rows and 135 million parameters)",
    ]


def test_each_configuration_of_a_sweep_has_numbers_of_its_own(tmp_path):
    grid = "{batch_size: [16, 32], learning_rate: [auto, 3e-4]}"
    recipe = load_recipe(write_recipe(tmp_path, "{a: {method: lora}, b: {method: reft}}", f"sweep: {{grid: {grid}}}"))
    facts = Facts(rows=600, parameters=135_000_000)
    tried = settled(configurations(recipe), facts)
    assert [(c.stage.epochs, c.stage.learning_rate) for c in tried] == [(4, 2e-3), (4, 3e-4), (7, 2e-3), (7, 3e-4)]
    a, b = with_defaults(recipe, facts).stages.values()
    assert (a.epochs, a.learning_rate, b) == (4, 1e-3, recipe.stages["b"])
    why = "(auto, for 600 rows and 135 million parameters)"
    assert chosen_in_words(recipe, facts) == [
        f"a: epochs 4, learning_rate 0.001 {why}",
        f"b: epochs 4, learning_rate 0.002 {why}",
        f"b: epochs 4 {why}",
        f"b: epochs 7, learning_rate 0.002 {why}",
        f"b: epochs 7 {why}",
    ]


def test_a_run_is_resumed_with_the_numbers_that_it_began_with(tmp_path):
    wanted = recipe_with(tmp_path, "{a: {method: lora}, b: {method: joint, epochs: 1}}")
    begun = with_defaults(wanted, Facts(rows=5_000, parameters=10**10))
    assert with_defaults_of(begun, wanted) == begun
