"""Stages of last positions behind one prefix: what they compute, after whatever interruption, and what it costs."""

import json

import pytest
from safetensors.torch import load_file
from test_resume import ended_after

from heft.costs.rows import prefix_row
from heft.costs.stage import stage_costs
from heft.data.rows import read_data
from heft.recipe.files import load_recipe
from heft.runtime.reporter import Reporter
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.shared import shared_prefix
from resuming import results, run
from tiny_recipe import write_recipe

COARSE = "method: lora, rank: 2, dropout: 0.1, epochs: 2, batch_size: 8, learning_rate: 1e-2, positions: l5"
FINE = "method: reft, rank: 2, dropout: 0.1, epochs: 2, batch_size: 8, positions: l3+, holdout: 0.2"
STEPS = "checkpoint: {every_steps: 1}"


def recipe_in(folder, coarse="", fine="", **options):
    stages = f"{{coarse: {{{COARSE}{coarse}}}, fine: {{{FINE}{fine}}}}}"
    return write_recipe(folder, stages, STEPS, **options)


@pytest.fixture(scope="module", params=["auto", "disk"])
def whole(request, tmp_path_factory):
    """A run that nothing ended, by the store of its prefixes."""
    folder = tmp_path_factory.mktemp("shared")
    recipe = recipe_in(folder, *[f", cache: {request.param}"] * 2)
    run(recipe, folder / "whole")
    return folder / "whole"


@pytest.mark.parametrize(
    ("whole", "writes"),
    [
        ("auto", 9),
        *(pytest.param(*each, marks=pytest.mark.long) for each in (("auto", 3), ("disk", 3), ("disk", 9))),
    ],
    indirect=["whole"],
)
def test_a_run_that_was_ended_in_either_stage_ends_as_if_it_had_not_been(whole, tmp_path, writes):
    recipe = whole.parent / "recipe.yaml"
    ended_after(recipe, tmp_path / "run", writes)
    run(recipe, tmp_path / "run")
    assert results(tmp_path / "run") == results(whole)


@pytest.fixture(scope="module")
def on_the_plain_path(tmp_path_factory):
    """The directory of a run that keeps no prefix."""
    folder = tmp_path_factory.mktemp("plain")
    run(recipe_in(folder, ", reuse: false", ", reuse: false"), folder / "plain")
    return folder / "plain"


def test_both_stages_train_to_what_they_train_to_on_the_plain_path(whole, on_the_plain_path):
    """Two optimisers of 6 and 4 steps: what rounding does to weights stays far below what training does."""
    for name in ("coarse", "fine"):
        plain, shared = (
            load_file(each / "adapter" / name / "adapter_model.safetensors") for each in (on_the_plain_path, whole)
        )
        for key, value in plain.items():
            assert (shared[key] - value).abs().max() < 0.02 * value.abs().max() + 1e-4, key


def test_prefixes_are_computed_once_for_both_stages_with_no_adapter_on(tmp_path, monkeypatch):
    rows, adapted = [], []
    compute = PrefixReuse.compute

    def noted(self, chosen):
        if len(self.examples) == 24:  # rows to train on
            rows.extend(chosen)
            adapted.append(self.of_base)
        return compute(self, chosen)

    monkeypatch.setattr(PrefixReuse, "compute", noted)
    run(recipe_in(tmp_path), tmp_path / "run")
    assert all(adapted)
    counts = [rows.count(row) for row in range(24)]
    assert sum(counts) - 24 <= 6  # once each, but for those that are tried before the stages
    assert min(counts) == 1


def costs_of(path):
    recipe = load_recipe(path)
    data = read_data(recipe, Reporter())
    return recipe, [stage_costs(recipe, name, data.train) for name in recipe.stages]


@pytest.mark.parametrize("whole", ["auto", pytest.param("disk", marks=pytest.mark.long)], indirect=True)
def test_the_second_stage_pays_for_no_prefix_and_the_plan_says_so(tmp_path, whole):
    recipe, (coarse, fine) = costs_of(recipe_in(tmp_path))
    assert shared_prefix(recipe).start == coarse.reuse.start == fine.reuse.start == 5
    assert coarse.reuse == fine.reuse
    assert coarse.reuse.in_words().endswith("cached in memory for coarse and fine")
    once = sum(prefix_row(coarse.shape.costs, row, 5) for row in coarse.rows)
    assert 2 * coarse.flops(1) - coarse.flops(2) == pytest.approx(once)
    assert 2 * fine.flops(1) - fine.flops(2) == pytest.approx(0, abs=1)
    counted = [stage["flops"] for stage in json.loads((whole / "summary.json").read_text())["stages"][1:]]
    assert counted == pytest.approx([coarse.flops(2), fine.flops(2)])


def test_one_epoch_of_each_is_enough_to_keep_them(tmp_path):
    path = recipe_in(tmp_path)
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 1"))
    _, costs = costs_of(path)
    assert [each.reuse.store for each in costs] == ["memory", "memory"]


@pytest.mark.parametrize(
    ("coarse", "fine", "starts"),
    [
        (", reuse: false", "", [0, 3]),
        (", cache: off", "", [5, 3]),
        ("", ", cache: off", [5, 3]),
        ("", ", gradient_checkpointing: true", [5, 0]),
    ],
)
def test_a_stage_that_keeps_nothing_shares_nothing(tmp_path, coarse, fine, starts):
    recipe, costs = costs_of(recipe_in(tmp_path, coarse, fine))
    assert shared_prefix(recipe) is None
    assert [each.reuse.start for each in costs] == starts


@pytest.mark.parametrize(
    ("stages", "shared"),
    [
        (["l5", "l3", "l8"], (("s0", "s1", "s2"), 8)),
        (["l5", "l3", "all"], (("s0", "s1"), 5)),
        (["all", "l5", "l3"], None),
        (["l5", "all", "l3"], None),
    ],
)
def test_an_adapter_of_all_tokens_ends_the_prefix_of_the_base(tmp_path, stages, shared):
    each = "{{method: reft, rank: 2, steps: 2, positions: {}}}"
    text = ", ".join(f"s{i}: {each.format(positions)}" for i, positions in enumerate(stages))
    found = shared_prefix(load_recipe(write_recipe(tmp_path, f"{{{text}}}")))
    assert (None if found is None else (found.stages, found.start)) == shared
