"""What is tried: stages from templates and lists, spread over all values."""

import itertools
from collections import Counter

import pytest

from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.recipe.recipe import JointStage, LoraStage, ReftStage
from heft.tune.space import (
    candidates,
    grids,
    methods_of_any_rate,
    require_tunable,
    resolved_space,
    spread,
    with_rates_beyond,
)

SMALL_MODEL = 10**8


def recipe(recipe_file, stages, tune="null"):
    return load_recipe(recipe_file(stages, f"tune: {tune}"))


@pytest.mark.parametrize("method", ["lora", "reft"])
def test_rates_behind_a_coarse_stage_are_lower_unless_a_list_is_given(method, recipe_file):
    mine = recipe(recipe_file, f"{{a: {{method: {method}, learning_rate: 1e-3}}}}")
    resolved = resolved_space(mine, SMALL_MODEL, shortest=99)

    def rates(of_any_rate, second):
        tried = candidates(resolved, method, SMALL_MODEL, second, of_any_rate)
        return list(dict.fromkeys(each.values["learning_rate"] for each in tried))

    assert set(rates(methods_of_any_rate(mine), second=False)) == {1e-3, 3e-4, 3e-3}
    behind = rates(methods_of_any_rate(mine), second=True)
    assert (behind[0], set(behind)) == (3e-4, {3e-4, 1e-4, 1e-3})
    assert set(rates((), second=True)) == {1e-3, 3e-4, 3e-3}


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


def test_of_very_many_combinations_some_of_every_value_are_drawn():
    """Two hundred thousand million combinations, whose first values turn slowest."""
    grid = {
        name: list(range(size)) for name, size in zip("abcdefghijkl", (3, 2, 9, 8, 7, 9, 8, 9, 9, 9, 9, 9), strict=True)
    }
    found = spread(grid, seed=0)
    assert found[0] == dict.fromkeys(grid, 0)
    assert 1000 < len(found) == len(set(map(repr, found)))
    for key, values in grid.items():
        counts = Counter(each[key] for each in found[:18])
        assert set(counts) == set(values)
        assert max(counts.values()) <= 2 * -(-18 // len(values))
    assert spread(grid, seed=0) == found


def test_stages_are_templates_and_their_own_values_come_first(recipe_file):
    stages = "{coarse: {method: lora, rank: 4, targets: [q_proj], batch_size: 8, epochs: 3, learning_rate: 2e-3}}"
    mine = recipe(recipe_file, stages)
    lists = grids(mine, SMALL_MODEL)
    assert lists["lora"] == {
        "learning_rate": [2e-3, 6e-4, 6e-3],
        "positions": ["l8+", "all"],
        "rank": [4, 8, 16],
    }
    assert lists["reft"]["learning_rate"][0] == 2e-3  # auto for ReFT on a model of this size
    first, *_ = tried = candidates(mine, "lora", SMALL_MODEL)
    assert first.values == {"learning_rate": 2e-3, "positions": "l8+", "rank": 4}
    assert all(isinstance(each.stage, LoraStage) and each.stage.targets == ["q_proj"] for each in tried)
    reft = candidates(mine, "reft", SMALL_MODEL)
    assert all(isinstance(each.stage, ReftStage) and each.stage.batch_size == 8 for each in reft)
    assert [each.values for each in reft] == [{key: getattr(each.stage, key) for key in each.values} for each in reft]


def test_lists_of_tune_replace_those_that_it_has_without(recipe_file):
    stages = "{fine: {method: reft, positions: l7}}"
    mine = recipe(recipe_file, stages, "{reft: {rank: [1], dropout: [0.0, 0.1]}}")
    lists = grids(mine, SMALL_MODEL)["reft"]
    assert (lists["rank"], lists["dropout"], lists["positions"]) == ([1], [0.0, 0.1], ["l7", "l4", "l4+", "l1"])


def test_positions_that_the_shortest_prompt_has_not_are_left_out_of_the_defaults_alone(recipe_file):
    stages = "{a: {method: lora, positions: l9}, b: {method: reft}}"
    short = resolved_space(recipe(recipe_file, stages), SMALL_MODEL, shortest=2).tune
    assert (short.lora["positions"], short.reft["positions"]) == (["l9+", "all"], ["l1"])
    given = resolved_space(recipe(recipe_file, stages, "{reft: {positions: [l4]}}"), SMALL_MODEL, shortest=2).tune
    assert given.reft["positions"] == ["l4"]
    assert grids(resolved_space(recipe(recipe_file, stages), SMALL_MODEL, 99), SMALL_MODEL)["lora"]["rank"] == [8, 16]


@pytest.mark.parametrize("method", ["lora", "joint"])
def test_combinations_that_are_no_stage_are_left_out(recipe_file, method):
    """DoRA scales whole weights, and so acts on all tokens; l8+ and all are positions by default."""
    mine = recipe(recipe_file, "{a: {method: lora}}", "{lora: {dora: [false, true], rank: [2]}}")
    tried = candidates(resolved_space(mine, SMALL_MODEL, shortest=99), method, SMALL_MODEL)
    loras = [each.stage.lora if method == "joint" else each.stage for each in tried]
    assert {(lora.dora, lora.positions) for lora in loras} == {(False, "l8+"), (False, "all"), (True, "all")}


def test_a_listed_value_that_would_never_be_tried_is_said(recipe_file):
    lists = "{lora: {dora: [false, true], positions: [l8+]}, reft: {rank: [2]}}"
    mine = recipe(recipe_file, "{a: {method: lora}}", lists)
    with pytest.raises(
        HeftError, match=r"^tune\.lora\.dora: true goes with no value of another list: dora scales whole"
    ):
        resolved_space(mine, SMALL_MODEL, shortest=99)
    resolved_space(
        recipe(recipe_file, "{a: {method: reft}}", lists.replace("{", "{arms: [reft], ", 1)), SMALL_MODEL, 99
    )


def test_only_a_second_stage_keeps_out_of_what_the_first_writes(recipe_file):
    stages = "{first: {method: lora}, fine: {method: reft, positions: l3, orthogonal_to: first}}"
    mine = recipe(recipe_file, stages, "{reft: {orthogonal_to: [null, first], rank: [4]}}")
    alone, second = (candidates(mine, "reft", SMALL_MODEL, behind) for behind in (False, True))
    assert {each.stage.orthogonal_to for each in alone} == {None}
    assert {each.stage.orthogonal_to for each in second} == {None, "coarse"}
    assert len(second) == 2 * len(alone)


@pytest.mark.parametrize(("own", "named"), [("orthogonal_to: first", "coarse"), ("rank: 4", None)])
def test_a_second_stage_keeps_out_of_what_the_first_writes_as_its_template_does(recipe_file, own, named):
    mine = recipe(recipe_file, f"{{first: {{method: lora}}, fine: {{method: reft, positions: l3, {own}}}}}")
    assert {each.stage.orthogonal_to for each in candidates(mine, "reft", SMALL_MODEL, second=True)} == {named}


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


def test_a_joint_stage_has_the_lists_of_training_of_lora_alone(recipe_file):
    stages = "{a: {method: lora, learning_rate: 1e-3}, b: {method: reft, positions: l3}}"
    tune = (
        "{lora: {batch_size: [4, 8], warmup: [0.0, 0.2], rank: [8], learning_rate: [1e-3]},"
        " reft: {batch_size: [2, 32], rank: [4], learning_rate: [1e-3], positions: [l3]}}"
    )
    mine = recipe(recipe_file, stages, tune)
    tried = candidates(mine, "joint", SMALL_MODEL)
    assert len({each.stage.model_dump_json() for each in tried}) == len(tried) == 8  # positions of LoRA: l8+, all
    assert {(each.stage.batch_size, each.stage.warmup) for each in tried} == {(4, 0.0), (4, 0.2), (8, 0.0), (8, 0.2)}
    assert all(getattr(each.stage, key) == each.values[key] for each in tried for key in ("batch_size", "warmup"))
    assert {each.stage.batch_size for each in candidates(mine, "reft", SMALL_MODEL)} == {2, 32}


BOTH_STAGES = "{coarse: {method: lora, learning_rate: 1e-3}, fine: {method: reft, learning_rate: 2e-3}}"


@pytest.mark.parametrize(("method", "rate"), [("lora", 1e-3), ("reft", 2e-3)])
def test_beyond_the_lowest_and_the_highest_rate_another_one_is_tried(recipe_file, method, rate):
    tried = candidates(recipe(recipe_file, BOTH_STAGES), method, SMALL_MODEL)
    for factor, wider in ((3, 9), (0.3, 0.1)):
        best = next(each for each in tried if each.values["learning_rate"] == pytest.approx(factor * rate))
        (found,) = with_rates_beyond(best, tried, {method})
        assert found.values == {**best.values, "learning_rate": pytest.approx(wider * rate)}
        assert found.stage == best.stage.model_copy(update={"learning_rate": found.values["learning_rate"]})
    middle = next(each for each in tried if each.values["learning_rate"] == rate)
    assert with_rates_beyond(middle, tried, {method}) == []
    assert len(with_rates_beyond(best, [best, middle], {method})) == 1
    assert with_rates_beyond(best, [best], {method}) == []  # one rate says nothing of others
    assert with_rates_beyond(best, tried, set()) == []


def test_each_rate_of_a_joint_stage_goes_beyond_alone(recipe_file):
    mine = recipe(recipe_file, BOTH_STAGES)
    tried = candidates(mine, "joint", SMALL_MODEL)
    rates = ("lora.learning_rate", "reft.learning_rate")
    best = next(each for each in tried if [each.values[key] for key in rates] == [3e-3, 6e-4])
    high, low = with_rates_beyond(best, tried, {"lora", "reft"})
    assert (low.stage.learning_rate, low.stage.reft_learning_rate) == (3e-3, 2e-4)
    assert (high.stage.learning_rate, high.stage.reft_learning_rate) == (9e-3, 6e-4)
    assert [each.values["reft.learning_rate"] for each in with_rates_beyond(best, tried, {"reft"})] == [2e-4]


def test_rates_that_a_person_lists_are_all_that_are_tried(recipe_file):
    assert methods_of_any_rate(recipe(recipe_file, BOTH_STAGES)) == {"lora", "reft"}
    assert methods_of_any_rate(recipe(recipe_file, BOTH_STAGES, "{lora: {learning_rate: [1e-3, 2e-3]}}")) == {"reft"}


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
        ("{lora: {positions: [l4, l4+]}}", "tune.lora.positions[1]: 'l4+' means the same as 'l4'; remove one of them"),
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
