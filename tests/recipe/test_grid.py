"""A sweep's combinations: each is a stage, all faults are told at once and at their lines."""

import os
from textwrap import dedent

import pytest

from heft import HeftError
from heft.recipe.files import dump_recipe, load_recipe
from heft.recipe.grid import configurations, recipe_of, refuse_sweep, require_sweep

RECIPE = dedent("""\
    name: r
    task: {name: whereabouts}
    stages:
      coarse: {method: lora}
      fine: {method: reft, positions: l4, epochs: 2}
    """)


@pytest.fixture
def load(tmp_path):
    def write_and_load(sweep: str, *overrides):
        path = tmp_path / "r.yaml"
        path.write_text(RECIPE + dedent(sweep))
        return load_recipe(path, overrides)

    return write_and_load


@pytest.fixture
def faults(load, tmp_path):
    def lines(sweep: str, *overrides):
        with pytest.raises(HeftError) as caught:
            load(sweep, *overrides)
        return str(caught.value).replace(f"{tmp_path}{os.sep}", "").split("\n")

    return lines


def test_the_grid_is_the_product_and_all_else_is_the_stage_as_written(load):
    recipe = load("sweep: {grid: {rank: [2, 8], layers: [all, [0, 1]], seed: [7]}}")
    tried = configurations(recipe)
    assert [c.name for c in tried] == ["c00", "c01", "c02", "c03"]
    assert [(c.stage.rank, c.stage.layers, c.stage.seed) for c in tried] == [
        (2, "all", 7), (2, [0, 1], 7), (8, "all", 7), (8, [0, 1], 7),
    ]  # fmt: skip
    assert all((c.stage.positions, c.stage.epochs, c.stage.holdout) == ("l4", 2, 0.1) for c in tried)


def test_steps_may_be_swept_where_the_stage_gives_no_length(load):
    recipe = load("sweep: {grid: {steps: [3, 4]}}", "stages.fine={method: reft}")
    assert [(c.stage.steps, c.stage.epochs) for c in configurations(recipe)] == [(3, None), (4, None)]


def test_the_share_held_back_is_the_sweeps_or_the_stages(load):
    def share(*overrides):
        return configurations(load("sweep: {grid: {rank: [2]}}", *overrides))[0].stage.holdout

    assert share() == 0.1
    assert share("stages.fine.holdout=0.3") == 0.3
    assert share("sweep.holdout=0.2") == 0.2


def test_the_recipe_of_a_configuration_trains_it_alone_and_survives_writing(load, tmp_path):
    recipe = load("sweep: {grid: {rank: [2, 8], steps: [5]}}", "stages.fine={method: reft}")
    alone = recipe_of(recipe, configurations(recipe)[1])
    refuse_sweep(alone)
    assert alone.stages["coarse"] == recipe.stages["coarse"]
    assert (alone.stages["fine"].rank, alone.stages["fine"].steps, alone.stages["fine"].holdout) == (8, 5, 0.1)
    (tmp_path / "alone.yaml").write_text(dump_recipe(alone))
    assert load_recipe(tmp_path / "alone.yaml") == alone


def test_all_faults_are_reported_at_once_at_their_lines(faults):
    sweep = """\
        sweep:
          grid:
            rnk: [4]
            rank: [4, 0, four]
            bf16: [true]
            positions:
              - l4
              - x9
            dropout: [0.1, 0.1]
            learning_rate: 1e-3
        """
    assert faults(sweep) == [
        "r.yaml:15: sweep.grid.learning_rate: expected a list (each entry: any value); got 0.001",
    ]
    rest = sweep.replace("1e-3", "[1e-3]")
    assert faults(rest) == [
        "r.yaml:8: sweep.grid.rnk: unknown key; did you mean 'rank'?",
        "r.yaml:9: sweep.grid.rank[1]: expected a whole number of at least 1 and at most 1048576; got 0",
        "r.yaml:9: sweep.grid.rank[2]: expected a whole number of at least 1 and at most 1048576; got 'four'",
        "r.yaml:10: sweep.grid.bf16: cannot differ between configurations: configurations share a forward pass, so they"
        " compute in one number format; set it in the stage",
        "r.yaml:13: sweep.grid.positions[1]: positions must be 'all', 'fN', 'lN', 'lN+', 'fN+lN' or 'fN+lN+' with N at"
        " least 1, such as 'f7+l7'; got 'x9'",
        "r.yaml:14: sweep.grid.dropout[1]: 0.1 is repeated",
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages={a: {method: reft}, b: {method: joint}}"], "'b', is a joint stage"),
        (["stages={a: {method: lora, dora: true}}"], "stages.a.dora: dora scales base weights, which all"),
        (["stages={a: {method: lora}}", "sweep.grid={init: [default, olora]}"], "grid.init[1]: olora changes base"),
        (["stages={a: {method: lora, trainable_tokens: [x]}}"], "stages.a.trainable_tokens: embeddings of tokens"),
        (["sweep.grid={positions: [f1+l1, l4]}", "stages.fine.tied=false", "stages.fine.positions=f1+l1"],
         "stages.fine.tied: tied: false needs first and last positions"),
        (["stages.fine.holdout=0.2", "sweep.holdout=0.3"], "give one of them"),
        (["stages.fine.gradient_checkpointing=true"], "lower sweep.tokens_per_pass"),
        (["sweep.grid={steps: [4]}"], "give epochs or steps, not both"),
        (["sweep.grid={}"], "of at least one entry"),
        (["sweep.gird={}"], "did you mean 'grid'"),
        (["sweep.grid={method: [lora]}"], "of the method of their stage"),
        (["stages={a: {method: lora, from: x}}"], "varies stage 'a', which starts from x"),
        (["stages={a: {method: lora, from: x, epochs: 1}}", "sweep.grid={init: [gaussian]}"], "which starts from x"),
        (["sweep.grid={orthogonal_to: [3]}"], "grid.orthogonal_to[0]: expected non-empty text, or null; got 3"),
        (["stages={a: {method: lora}}", "sweep.grid={positions: [l4, l4+]}"], "'l4+' means the same as 'l4'"),
        (["sweep.grid={max_grad_norm: [1, 2, 1.0]}"], "grid.max_grad_norm[2]: 1.0 means the same as 1; remove one"),
        ([f"sweep.grid={{{', '.join(f'{key}: {list(range(1, 101))}' for key in ('rank', 'seed', 'batch_size'))}}}"],
         "sweep.grid: has 1,000,000 configurations, more than 10,000; give fewer values"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept_is_refused(faults, overrides, message):
    assert message in "\n".join(faults("sweep: {grid: {rank: [2]}}", *overrides))


def test_train_refuses_a_sweep_and_sweep_refuses_a_plain_recipe(load):
    with pytest.raises(HeftError, match="run it with heft sweep"):
        refuse_sweep(load("sweep: {grid: {rank: [2]}}"))
    refuse_sweep(load("sweep: {grid: {rank: [2]}}", "sweep=null"))
    with pytest.raises(HeftError, match="has no `sweep`"):
        require_sweep(load(""))
