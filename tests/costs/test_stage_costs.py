"""What a stage costs: decided as training decides, counted as training runs."""

import gc
import weakref

import pytest

from counting import counted
from heft.adapters.attach import attach
from heft.costs.pieces import training_piece
from heft.costs.rows import prefix_row, suffix_row
from heft.costs.shapes import shape_of
from heft.costs.skeleton import skeleton_of
from heft.costs.stage import stage_costs
from heft.data.rows import read_data
from heft.data.validation import split_validation
from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.runtime.reporter import Reporter
from heft.training import stage as stage_module
from heft.training.loop import TrainingLoop
from heft.training.loss import answer_loss
from heft.training.reuse import decide as reuse_module
from heft.training.reuse.decide import loss_for
from heft.training.stage import train_stage

FINE = "method: reft, rank: 2, batch_size: 4, intervention: direft, learning_rate: 1e-3"
WEIGHTS = "method: lora, rank: 2, batch_size: 4, learning_rate: 1e-3"
KEPT = "epochs: 2, positions: all, layers: [1, 3]"


def costs_and_recipe(recipe_file, fine):
    fine = fine if fine.startswith("method") else f"{FINE}, {fine}"
    recipe = load_recipe(
        recipe_file(f"{{coarse: {{method: lora, rank: 2, steps: 1, learning_rate: 1e-3}}, fine: {{{fine}}}}}")
    )
    data = read_data(recipe, Reporter())
    return stage_costs(recipe, "fine", data.train), recipe, data.train


@pytest.mark.parametrize(
    ("fine", "kind", "store"),
    [
        (f"{WEIGHTS}, epochs: 2, positions: l2", "prefixes", "memory"),
        (f"{WEIGHTS}, epochs: 1, positions: l2", "prefixes", "off"),
        (f"{WEIGHTS}, epochs: 2, positions: l2, reuse: false", "nothing", "off"),
        (f"{WEIGHTS}, epochs: 2, layers: [1, 3]", "lower layers", "memory"),
        (f"{WEIGHTS}, epochs: 2", "nothing", "off"),
        ("epochs: 2, positions: l2", "prefixes", "memory"),
        ("epochs: 2, positions: l2, cache: disk", "prefixes", "disk"),
        ("epochs: 1, positions: l2", "prefixes", "off"),
        ("epochs: 2, positions: l2, layers: [1]", "prefixes", "memory"),
        (KEPT, "lower layers", "memory"),
        ("epochs: 2, positions: f1+l1, layers: [-1], cache: disk", "lower layers", "disk"),
        (f"{KEPT}, cache: off", "nothing", "off"),
        ("epochs: 1, positions: all, layers: [1]", "nothing", "off"),
        ("epochs: 2, positions: all", "nothing", "off"),
        (f"{KEPT}, reuse: false", "nothing", "off"),
        (f"{KEPT}, gradient_checkpointing: true", "nothing", "off"),
    ],
)
def test_what_is_reused_is_what_training_reuses(recipe_file, tmp_path, fine, kind, store):
    work, recipe, examples = costs_and_recipe(recipe_file, fine)
    assert (work.reuse.kind, work.reuse.store) == (kind, store)
    stage, model = recipe.stages["fine"], load_base(recipe.model).model
    attach(model, "fine", stage)
    uses = work.planned_passes
    heard = []
    reporter = Reporter()
    reporter.note = heard.append
    loss, reuses = loss_for(model, stage, examples, 0, uses, tmp_path, reporter)
    assert reuses == (kind != "nothing")
    inner = loss.args[0] if loss.args else loss  # a loss in length buckets calls another
    if kind == "nothing":
        assert inner is answer_loss
        assert heard == []
        assert work.reuse.why_not
        return
    reuse = inner.keywords["reuse"]
    assert reuse.store.kind == store
    assert work.reuse.start == reuse.start
    assert heard == [work.reuse.in_words()]


@pytest.mark.parametrize("batch_size", [5, 64])
@pytest.mark.parametrize(("positions", "kind"), [("l2", "prefixes"), ("f1+l1, layers: [-1]", "nothing")])
def test_an_epoch_with_a_small_last_batch_uses_no_row_twice_and_stores_nothing(
    recipe_file, batch_size, positions, kind
):
    stage = f"method: reft, rank: 2, epochs: 1, batch_size: {batch_size}, positions: {positions}"
    work, recipe, examples = costs_and_recipe(recipe_file, stage)
    assert len(examples) % batch_size
    assert (work.reuse.kind, work.reuse.store) == (kind, "off")
    assert work.planned_passes == 1
    assert training_piece("fine", work).rows == len(examples)


def test_part_of_an_epoch_is_counted_by_the_rows_of_its_batches(recipe_file):
    """12 rows in batches of 5, 5 and 2: four steps see 17 rows, and not 4/3 of 12."""
    stage = "method: reft, rank: 2, steps: 4, batch_size: 5, learning_rate: 1e-3, positions: l2"
    work, recipe, examples = costs_and_recipe(recipe_file, stage)
    rows = [examples[0]] * 12
    model = load_base(recipe.model).model
    attach(model, "fine", recipe.stages["fine"])
    outcome = train_stage(model, "fine", work.stage, rows, pad_id=0, seed=0, reporter=Reporter())
    work = stage_costs(recipe, "fine", rows)
    assert work.passes_of(outcome.tokens) == pytest.approx(17 / 12)
    assert work.planned_passes == pytest.approx(17 / 12)


@pytest.mark.parametrize("fine", [
    "positions: l2", "positions: l2, cache: off", KEPT[len("epochs: 2, ") :], "fused: false, positions: l2",
])  # fmt: skip
def test_a_stage_is_counted_as_it_runs(recipe_file, fine, monkeypatch):
    """Rows of one length, so that nothing is padded; attention as plain products, which torch counts.

    The pass over one row with which the weights are tried before they are kept is no part of the training, nor are
    the checks before it.
    """
    monkeypatch.setattr(stage_module, "require_an_effect", lambda *a: None)
    monkeypatch.setattr(reuse_module, "why_not_fast", lambda *a: None)
    monkeypatch.setattr(reuse_module, "padding_matters", lambda *a: False)
    monkeypatch.setattr(reuse_module, "draws_random_numbers", lambda *a: False)
    monkeypatch.setattr(TrainingLoop, "_require_sound_weights", lambda self: None)
    task = "{name: whereabouts, train_size: 8, eval_size: 2}"
    settings = WEIGHTS if fine.startswith("fused") else FINE
    path = recipe_file(f"{{fine: {{{settings}, epochs: 3, {fine}}}}}", task=task)
    recipe = load_recipe(path)
    longest = max(read_data(recipe, Reporter()).train, key=lambda row: len(row.prompt))
    rows = [longest] * 8
    work = stage_costs(recipe, "fine", rows)
    base = load_base(recipe.model)
    base.model.set_attn_implementation("eager")
    attach(base.model, "fine", recipe.stages["fine"])
    outcomes = []

    def train():
        outcomes.append(train_stage(base.model, "fine", work.stage, rows, pad_id=0, seed=0, reporter=Reporter()))

    ran = counted(train)
    if work.reuse.kind == "prefixes":
        ran -= prefix_row(work.shape.costs, longest, 2)  # one runs once more, for the size of its keys and values
    assert work.passes_of(outcomes[0].tokens) == work.planned_passes == 3
    assert work.flops(3) == pytest.approx(ran, rel=2e-3)
    assert work.flops(3) < work.plain_flops(3)


def test_rows_held_back_are_those_of_the_run_and_are_kept_but_not_trained_on(recipe_file):
    work, recipe, examples = costs_and_recipe(recipe_file, f"{KEPT}, holdout: 0.25")
    assert (work.rows, work.validation_rows) == split_validation(examples, 0.25, recipe.holdout_seed)
    assert work.reuse.tokens == sum(len(row.prompt) + len(row.answer) for row in examples)
    assert work.reuse.bytes == work.reuse.tokens * 64 * 4


def test_what_is_kept_is_computed_once_however_often_rows_are_seen(recipe_file):
    work, *_ = costs_and_recipe(recipe_file, KEPT)
    first, later = work.flops(1), work.flops(2) - work.flops(1)
    assert first == pytest.approx(work.plain_flops(1))
    assert later < 0.9 * first
    assert work.flops(3) - work.flops(2) == pytest.approx(later)
    assert work.flops(0.5) == pytest.approx(first / 2)


def test_prefixes_that_an_earlier_stage_has_computed_cost_nothing(recipe_file):
    fine = f"{{{FINE}, epochs: 2, positions: l2}}"
    recipe = load_recipe(recipe_file(f"{{one: {fine}, two: {fine}}}"))
    examples = read_data(recipe, Reporter()).train
    one, two = (stage_costs(recipe, name, examples) for name in recipe.stages)
    assert one.reuse == two.reuse
    assert (one.reuse.kind, one.reuse.store, one.reuse.stages) == ("prefixes", "memory", ("one", "two"))
    prefixes = sum(prefix_row(one.shape.costs, row, 2) for row in examples)
    behind_one, behind_two = (sum(suffix_row(work.shape.costs, row, 2) for row in examples) for work in (one, two))
    assert one.flops(2) == pytest.approx(prefixes + 2 * behind_one)
    assert two.flops(2) == pytest.approx(2 * behind_two)


def test_a_counted_model_does_not_stay_in_memory(recipe_file):
    recipe = load_recipe(
        recipe_file(
            f"{{coarse: {{method: lora, rank: 2, steps: 1, learning_rate: 1e-3}}, fine: {{{FINE}, epochs: 1}}}}"
        )
    )
    skeleton = skeleton_of(recipe, "coarse")
    there = [weakref.ref(parameter) for parameter in skeleton.parameters()]
    assert shape_of(skeleton, "auto").costs.token.forward > 0
    del skeleton
    gc.collect()
    assert [reference() for reference in there if reference() is not None] == []
