"""The plan of a recipe against what the run itself reports, without a weight being read."""

import json

import pytest

from heft.cli.plan import notes
from heft.cli.plan import plan as plan_command
from heft.errors import HeftError
from heft.plan.planner import make_plan
from heft.recipe.files import load_recipe
from heft.text.units import in_bytes

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
    assert fine.reuse.bytes == fine.reuse.tokens * a_token
    assert (fine.reuse.kind, fine.reuse.store) == ("prefixes", "memory")
    assert fine.flops < fine.plain_flops / 3
    assert (coarse.reuse.kind, coarse.flops, coarse.seconds) == ("nothing", coarse.plain_flops, None)
    assert plan.base_evaluation_flops < plan.plain_evaluation_flops


def test_a_prefix_that_is_not_kept_costs_more_and_less_than_the_plain_path(recipe_file):
    recipe = recipe_file(STAGES)
    kept, computed, off = (
        make_plan(load_recipe(recipe, [f"stages.fine.{setting}"]), probe_seconds=0).stages[1]
        for setting in ("cache=memory", "cache=off", "reuse=false")
    )
    assert kept.flops < computed.flops < off.flops == off.plain_flops


def test_lower_layers_that_are_kept_are_counted_and_said(recipe_file):
    settings = ["stages.fine.positions=all", "stages.fine.layers=[2, 3]"]
    plan = make_plan(load_recipe(recipe_file(STAGES), settings), probe_seconds=0)
    fine = plan.stages[1]
    assert (fine.reuse.kind, fine.reuse.start, fine.reuse.tokens) == ("lower layers", 2, plan.train.tokens)
    assert fine.reuse.bytes == plan.train.tokens * 64 * 4  # hidden size, float32
    assert fine.flops < 0.9 * fine.plain_flops
    size = f"{plan.train.tokens:,} tokens, {in_bytes(fine.reuse.bytes)}"
    assert notes(plan)[1] == f"fine: layers 0 to 1 skipped, {size}, cached in memory"


def test_where_nothing_is_reused_the_plan_says_why(recipe_file):
    plan = make_plan(load_recipe(recipe_file(STAGES), ["stages.fine.positions=all"]), probe_seconds=0)
    assert plan.stages[1].flops == plan.stages[1].plain_flops
    assert notes(plan)[:2] == [
        f"{name}: nothing is reused, positions all act from the first token and the first layer on"
        for name in ("coarse", "fine")
    ]


def test_rows_that_do_not_fit_are_told_as_a_run_would_tell_them(recipe_file):
    recipe = load_recipe(recipe_file(STAGES), ["stages.fine.holdout=0.99"])
    with pytest.raises(HeftError, match="leaves none to train on"):
        make_plan(recipe, probe_seconds=0)


SWEEP = "sweep: {grid: {rank: [2, 4], positions: [l2, all]}}"


def test_the_table_and_the_notes_of_a_sweep_compare_it_with_runs_of_their_own(recipe_file, capsys):
    plan_command(recipe_file(STAGES, SWEEP), [], probe=False, as_json=False)
    printed = capsys.readouterr().out
    assert "fine × 4" in printed
    assert "2 of 4 configurations run whole rows" in printed
    assert "all 4 side by side: " in printed
    assert "times one plain run of one (" in printed
    assert "times all run alone (" in printed


def test_json_is_all_that_is_printed(recipe_file, capsys):
    plan_command(recipe_file(STAGES), [], probe=False, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in printed["stages"]] == ["coarse", "fine"]
    assert (printed["flops_per_second"], printed["is_measured"]) == (None, False)


def test_a_probe_turns_flops_into_seconds(recipe_file):
    plan = make_plan(load_recipe(recipe_file(STAGES)), probe_seconds=0.1)
    assert plan.stages[0].seconds == pytest.approx(plan.stages[0].flops / plan.flops_per_second)
