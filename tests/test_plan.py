"""The plan of a recipe against what the run itself reports, without a weight being read."""

import json

import pytest

from heft.cli.plan import run_plan
from heft.plan.planner import make_plan
from heft.recipe_io import load_recipe

STAGES = (
    "{coarse: {method: lora, rank: 2, init: pissa, steps: 2, batch_size: 4}, "
    "fine: {method: reft, rank: 2, positions: l2, epochs: 3, batch_size: 4}}"
)


def test_a_plan_counts_rows_steps_weights_and_prefixes(recipe_file):
    plan = make_plan(load_recipe(recipe_file(STAGES)), probe_seconds=0)
    coarse, fine = plan.stages
    assert (plan.train.rows, plan.eval.rows, coarse.steps, fine.steps) == (24, 10, 2, 18)
    assert plan.weight_bytes == 4 * plan.parameters
    assert fine.trainable_parameters == 4 * (2 * 64 + 2 * 64 + 2)  # layers; rotation, weight, bias
    a_token = 2 * 4 * 2 * 16 * 4  # keys and values, layers, heads, head size, bytes
    assert fine.prefix.bytes == fine.prefix.tokens * a_token
    assert fine.prefix.store == "memory"
    assert fine.flops < fine.plain_flops / 3
    assert (coarse.prefix, coarse.flops, coarse.seconds) == (None, coarse.plain_flops, None)
    assert plan.base_evaluation_flops < plan.plain_evaluation_flops


def test_a_prefix_that_is_not_kept_costs_more_and_less_than_the_plain_path(recipe_file):
    recipe = recipe_file(STAGES)
    kept, computed, off = (
        make_plan(load_recipe(recipe, [f"stages.fine.{setting}"]), probe_seconds=0).stages[1]
        for setting in ("cache=memory", "cache=off", "reuse=false")
    )
    assert kept.flops < computed.flops < off.flops == off.plain_flops


def test_json_is_all_that_is_printed(recipe_file, capsys):
    run_plan(recipe_file(STAGES), [], probe=False, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in printed["stages"]] == ["coarse", "fine"]


def test_a_probe_turns_flops_into_seconds(recipe_file):
    plan = make_plan(load_recipe(recipe_file(STAGES)), probe_seconds=0.1)
    assert plan.stages[0].seconds == pytest.approx(plan.stages[0].flops / plan.flops_per_second)
