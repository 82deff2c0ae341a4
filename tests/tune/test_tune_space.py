"""What is tried: stages from templates and lists, spread over all values."""

import itertools
from collections import Counter

import pytest

from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.recipe.recipe import JointStage, LoraStage, ReftStage
from heft.tune.space import candidates, grids, require_tunable, spread

SMALL_MODEL = 10**8


def recipe(recipe_file, stages, tune="null"):
    return load_recipe(recipe_file(stages, f"tune: {tune}"))


def test_the_first_few_of_a_spread_have_every_value_equally_often():
    grid = {"a": [1, 2, 3], "b": ["x", "y"], "c": [0.1, 0.2, 0.3]}
    found = spread(grid, seed=0)
    assert sorted(map(repr, found)) == sorted(
        repr(dict(zip(grid, each, strict=True))) for each in itertools.product(*grid.values())
    )
    assert found[0] == {"a": 1, "b": "x", "c": 0.1}
    for key, values in grid.items():
        counts = Counter(each[key] for each in found[:6])
        assert counts == dict.fromkeys(values, 6 // len(values))
    assert spread(grid, seed=0) == found
    assert spread(grid, seed=1) != found


def test_stages_are_templates_and_their_own_values_come_first(recipe_file):
    stages = "{coarse: {method: lora, rank: 4, targets: [q_proj], batch_size: 8, epochs: 3, learning_rate: 2e-3}}"
    mine = recipe(recipe_file, stages)
    lists = grids(mine, SMALL_MODEL)
    assert lists["lora"] == {"learning_rate": [2e-3, 6e-4, 6e-3], "rank": [4, 8, 16]}
    assert lists["reft"]["learning_rate"][0] == 2e-3  # auto for ReFT on a model of this size
    first, *_ = tried = candidates(mine, "lora", SMALL_MODEL)
    assert first.values == {"learning_rate": 2e-3, "rank": 4}
    assert all(isinstance(each.stage, LoraStage) and each.stage.targets == ["q_proj"] for each in tried)
    reft = candidates(mine, "reft", SMALL_MODEL)
    assert all(isinstance(each.stage, ReftStage) and each.stage.batch_size == 8 for each in reft)
    assert [each.values for each in reft] == [{key: getattr(each.stage, key) for key in each.values} for each in reft]


def test_lists_of_tune_replace_those_that_it_has_without(recipe_file):
    stages = "{fine: {method: reft, positions: l7}}"
    mine = recipe(recipe_file, stages, "{reft: {rank: [1], dropout: [0.0, 0.1]}}")
    lists = grids(mine, SMALL_MODEL)["reft"]
    assert (lists["rank"], lists["dropout"], lists["positions"]) == ([1], [0.0, 0.1], ["l7", "l4", "l1"])


def test_a_joint_stage_has_the_values_of_both(recipe_file):
    stages = "{a: {method: lora, alpha: 7, batch_size: 2}, b: {method: reft, positions: l3, intervention: noreft}}"
    found = candidates(recipe(recipe_file, stages), "joint", SMALL_MODEL)
    for each in found:
        stage = each.stage
        assert isinstance(stage, JointStage)
        assert (stage.lora.alpha, stage.batch_size, stage.reft.intervention) == (7, 2, "noreft")
        assert stage.learning_rate == each.values["lora.learning_rate"]
        assert stage.reft_learning_rate == each.values["reft.learning_rate"]
        assert stage.reft.positions == each.values["reft.positions"]
    assert len({each.stage.model_dump_json() for each in found}) == len(found)


def test_templates_come_from_a_joint_stage_too(recipe_file):
    stages = "{both: {method: joint, lora: {rank: 3}, reft: {rank: 5, positions: l3}, batch_size: 2}}"
    mine = recipe(recipe_file, stages)
    assert candidates(mine, "lora", SMALL_MODEL)[0].stage.rank == 3
    assert (grids(mine, SMALL_MODEL)["reft"]["rank"][0], candidates(mine, "reft", SMALL_MODEL)[0].stage.batch_size) == (
        5,
        2,
    )


@pytest.mark.parametrize(
    ("stages", "rest", "message"),
    [
        ("{fine: {method: reft}}", "sweep: {grid: {rank: [2]}}", "has a `sweep`; run it with heft sweep"),
        ("{a: {method: lora, trainable_tokens: ['<yes>']}}", "", "embeddings are not searched"),
        ("{a: {method: lora, from: x}, b: {method: reft}}", "", "stages.a starts from x, but a search begins with new"),
    ],
)
def test_what_cannot_be_searched_is_said(recipe_file, stages, rest, message):
    with pytest.raises(HeftError, match=message):
        require_tunable(load_recipe(recipe_file(stages, rest)))


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ("{lora: {rnk: [2]}}", "tune.lora.rnk: unknown key; did you mean 'rank'?"),
        ("{lora: {steps: [2]}}", "tune.lora.steps: cannot be tried: the search decides how long a trial trains"),
        ("{reft: {positions: [l4, q4]}}", "tune.reft.positions[1]"),
        ("{reft: {rank: [4, 4]}}", "tune.reft.rank[1]: is repeated"),
        ("{lora: {learning_rate: [auto]}}", "give a number"),
        ("{arms: [lora, both]}", "tune.arms[1]"),
        ("{lora: {rank: [0]}}", "tune.lora.rank[0]"),
    ],
)
def test_a_wrong_setting_is_said_at_its_place(recipe_file, tune, message):
    with pytest.raises(HeftError) as caught:
        recipe(recipe_file, "{a: {method: lora}}", tune)
    assert message in str(caught.value)


def test_all_faults_of_a_search_are_said_at_once(recipe_file):
    with pytest.raises(HeftError) as caught:
        recipe(recipe_file, "{a: {method: lora}}", "{lora: {rank: [0]}, reft: {rank: [0]}}")
    assert len(str(caught.value).splitlines()) == 2
