"""What a sweep's passes cost against torch's own counter, and against runs of their own."""

import pytest
import torch

from counting import counted
from heft.adapters.attach import attach, train_only
from heft.adapters.methods import edited_positions
from heft.costs.rows import prefix_row
from heft.costs.skeleton import skeleton_of
from heft.data.rows import read_data
from heft.edits.positions import parse_positions
from heft.models.load import load_base
from heft.plan.planner import make_plan
from heft.recipe.files import load_recipe
from heft.recipe.grid import configurations, recipe_of
from heft.runtime.reporter import Reporter
from heft.sweep.arrange import side_by_side
from heft.sweep.costs import packed, pass_flops, sequences, sweep_costs
from heft.sweep.forward import PackedForward
from heft.sweep.training import SideBySide
from heft.training.batches import TrainingData
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.stores import MemoryStore

COARSE = "coarse: {method: lora, rank: 2, steps: 2, batch_size: 4, learning_rate: 1e-3}"
FINE = "method: reft, intervention: direft, rank: 2, batch_size: 4, positions: l2, learning_rate: 1e-3"
TASK = "{name: whereabouts, people: 2, moves: 2, train_size: 12, eval_size: 4}"


@pytest.fixture
def sweep_of(recipe_file):
    """Writes a recipe with a sweep; returns it and the costs of its rows, all of one length."""

    def make(grid, fine="steps: 6", sweep=""):
        path = recipe_file(f"{{{COARSE}, fine: {{{FINE}, {fine}}}}}", f"sweep: {{grid: {grid}{sweep}}}", task=TASK)
        recipe = load_recipe(path)
        edited = [p for tried in configurations(recipe) for p in edited_positions(recipe_of(recipe, tried))]
        examples = read_data(recipe, Reporter(), edited).train
        rows = [max(examples, key=lambda row: len(row.prompt))] * len(examples)
        return recipe, sweep_costs(recipe, rows, skeleton_of(recipe, None)), rows

    return make


def countable(recipe):
    """The base model with attention as plain products, which torch counts on every device."""
    base = load_base(recipe.model)
    base.model.set_attn_implementation("eager")
    return base


@pytest.mark.parametrize(
    "grid",
    ["{rank: [2, 4, 8]}", "{positions: [l1, l3]}", "{layers: [[3], [1], all]}", "{positions: [all, f1+l2]}"],
)
def test_a_pass_is_counted(sweep_of, grid):
    recipe, work, rows = sweep_of(grid)
    model = countable(recipe).model
    attach(model, "coarse", recipe.stages["coarse"])
    tried = configurations(recipe)
    for configuration in tried:
        attach(model, configuration.adapter, configuration.stage)
    names = [configuration.adapter for configuration in tried]
    train_only(model, names)
    tracker = next(m for m in model.modules() if hasattr(m, "tracker")).tracker
    tracker.adapter_index.update({name: number for number, name in enumerate(names)})
    suffixes, store = [member.suffix for member in work.members], MemoryStore()
    reuse = PrefixReuse(model, rows[:2], work.reuse.start, 0, store, in_place=True) if any(suffixes) else None
    passes = PackedForward(model, rows, 0, reuse=reuse, suffixes=suffixes)

    def run():
        passes.losses(
            [passes.item(n, row, rows[row].answer) for n in range(len(tried)) for row in (0, 1)]
        ).sum().backward()

    first, later = counted(run), counted(run)
    assert pass_flops(work.members, rows[:2]) == pytest.approx(later, rel=2e-3)
    if any(suffixes):
        prefixes = 2 * prefix_row(work.members[0].costs, rows[0], work.reuse.start)
        assert pass_flops(work.members, rows[:2]) + prefixes == pytest.approx(first, rel=2e-3)


@pytest.mark.parametrize(
    ("grid", "fine"),
    [
        ("{rank: [2, 4], positions: [l2, all]}", "steps: 6, cache: memory"),
        ("{rank: [2, 4], epochs: [1, 2], seed: [0, 1]}", "epochs: 3, cache: memory"),
        ("{rank: [2, 4]}", "steps: 3, cache: off"),
        ("{rank: [2, 4], batch_size: [2, 4]}", "epochs: 2, micro_batch_size: 2, cache: memory"),
    ],
)
def test_a_sweep_is_counted_as_it_runs(sweep_of, grid, fine, monkeypatch):
    monkeypatch.setattr(SideBySide, "_validate", lambda *args: None)  # validation evaluations are not counted
    for check in ("_why_not_shared", "_require_effects"):  # nor are the checks before the sweep
        monkeypatch.setattr(f"heft.sweep.arrange.{check}", lambda *args: None)
    recipe, work, rows = sweep_of(grid, fine)
    tried = configurations(recipe)
    base = countable(recipe)
    attach(base.model, "coarse", recipe.stages["coarse"])
    data = TrainingData(work.rows, work.members[0].alone.validation_rows, 0)
    seeds = [member.seed for member in work.members]
    with side_by_side(base, tried, data, seeds, recipe.sweep.tokens_per_pass, Reporter()) as training:
        ran = counted(lambda: training.train("fine", Reporter()))
    kept = work.reuse.store != "off"  # rows held back then bring their prefixes along, whether evaluated or not
    theirs = [prefix_row(work.members[0].costs, row, work.reuse.start) for row in data.validation_rows] if kept else []
    assert work.flops() + sum(theirs) == pytest.approx(ran, rel=2e-3)


@pytest.mark.parametrize(
    ("grid", "fine"),
    [
        *(
            pytest.param(grid, "epochs: 2, cache: memory, fused: false", marks=pytest.mark.long)
            for grid in ("{learning_rate: [1e-3, 2e-3], positions: [l2]}", "{seed: [1, 2], positions: [l2]}")
        ),
        (
            "{learning_rate: [1e-3, 2e-3], positions: [l2]}",
            "epochs: 2, cache: memory",
        ),  # ranks and positions alike: nothing fills up
        ("{layers: [all, [2, 3]]}", "steps: 6"),
        ("{rank: [2, 4], positions: [l2, l4]}", "steps: 6, cache: memory, fused: false"),
        ("{positions: [l2, all]}", "steps: 6, cache: 'off', fused: false"),
        ("{rank: [2, 4], positions: [l2, all]}", "steps: 6, reuse: false, fused: false"),
    ],
)
def test_a_sweep_of_lora_is_counted_as_it_runs(recipe_file, grid, fine, monkeypatch):
    monkeypatch.setattr(SideBySide, "_validate", lambda *args: None)
    for check in ("_why_not_shared", "_require_effects", "_may_be_packed"):
        its_answer = "fused: false" not in fine if check == "_may_be_packed" else None
        monkeypatch.setattr(f"heft.sweep.arrange.{check}", lambda *args, answer=its_answer: answer)
    stage = f"{{fine: {{method: lora, rank: 2, batch_size: 4, learning_rate: 1e-3, {fine}}}}}"
    recipe = load_recipe(recipe_file(stage, f"sweep: {{grid: {grid}}}", task=TASK))
    examples = read_data(recipe, Reporter(), [parse_positions("l4+")]).train
    rows = [max(examples, key=lambda row: len(row.prompt))] * len(examples)
    work, base = sweep_costs(recipe, rows, skeleton_of(recipe, None)), countable(recipe)
    data = TrainingData(work.rows, work.members[0].alone.validation_rows, 0)
    seeds = [member.seed for member in work.members]
    with side_by_side(base, configurations(recipe), data, seeds, 4096, Reporter()) as training:
        ran = counted(lambda: training.train("fine", Reporter()))
    kept = work.reuse.store != "off" and work.reuse.kind == "prefixes"
    theirs = [prefix_row(work.members[0].costs, row, work.reuse.start) for row in data.validation_rows] if kept else []
    assert work.flops() + sum(theirs) == pytest.approx(ran, rel=5e-3)


def test_equal_configurations_cost_less_together_than_alone_and_more_than_one(sweep_of):
    recipe, work, _ = sweep_of("{learning_rate: [1e-3, 2e-3, 3e-3, 4e-3]}", "epochs: 4, cache: memory")
    plan = work.plan("fine", load_base(recipe.model).model.config, torch.device("cpu"))
    one = work.members[0].alone
    assert plan.all_alone_flops == pytest.approx(4 * one.flops(4))
    assert plan.one_plain_flops == pytest.approx(one.plain_flops(4))
    assert one.flops(4) < plan.flops < plan.all_alone_flops
    assert (plan.configurations, plan.behind_prefixes) == (4, 4)
    assert plan.trainable_parameters == 4 * one.shape.trainable_parameters


def test_packs_hold_as_many_micro_batches_as_the_limit_of_tokens_allows(sweep_of):
    _, work, rows = sweep_of("{rank: [2, 4, 8]}")
    tokens = 4 * work.members[0].width(rows[0])
    sizes = [[len(pack) for pack in packed(work.members, rows, limit)] for limit in (1, 2 * tokens, 3 * tokens)]
    assert sizes == [[1, 1, 1], [2, 1], [3]]


def test_copies_beyond_the_width_of_a_sequence_go_into_further_ones(sweep_of):
    _, work, rows = sweep_of("{learning_rate: [1, 2, 3, 4], positions: [l70]}")
    assert [len(sequence) for sequence in sequences(work.members, rows[0])] == [3, 1]


@pytest.mark.parametrize(
    ("grid", "fine", "why"),
    [
        ("{positions: [all, f1]}", "steps: 1", "all configurations act on first tokens"),
        ("{rank: [2, 4]}", "steps: 1, reuse: false", "reuse is false"),
    ],
)
def test_why_no_prefix_is_shared_is_said(sweep_of, grid, fine, why):
    _, work, _ = sweep_of(grid, fine)
    assert (work.reuse.kind, work.reuse.why_not) == ("nothing", why)
    assert work.flops() > 0


def test_the_plan_of_a_sweep_has_the_earlier_stages_and_all_configurations(recipe_file):
    sweep = "sweep: {grid: {rank: [2, 4], positions: [l2, all]}, evaluate_winner: true}"
    recipe = load_recipe(recipe_file(f"{{{COARSE}, fine: {{{FINE}, epochs: 2}}}}", sweep, task=TASK))
    plan = make_plan(recipe, probe_seconds=0)
    assert [stage.name for stage in plan.stages] == ["coarse"]
    assert (plan.stages[0].evaluation_flops, plan.base_evaluation_flops) == (0, 0)
    assert (plan.sweep.stage, plan.sweep.configurations, plan.sweep.behind_prefixes) == ("fine", 4, 2)
    assert plan.sweep.evaluation_flops > 0
    assert plan.sweep.rows == 11  # one is held back
    assert plan.sweep.peak_bytes > plan.weight_bytes
    assert plan.to_dict()["sweep"]["reuse"]["kind"] == "prefixes"
