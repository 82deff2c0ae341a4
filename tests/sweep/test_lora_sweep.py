"""Sweeps of a LoRA stage: each configuration has the losses and the adapter that `heft train` alone gives it."""

import json

import pytest
from alone import assert_as_alone
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

import heft
import tiny
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.recipe.grid import Configuration
from heft.recipe.recipe import LoraStage
from heft.reft.tracker import tracker_of
from heft.runtime.reporter import Reporter
from heft.sweep import arrange
from heft.sweep.packed_lora import PackedLinear, require_apart
from tolerance import assert_tensors, of_weights, trained_losses

FINE = "{method: lora, rank: 2, alpha: 4, steps: 6, batch_size: 8, learning_rate: 1e-2, fused: %s}"


class Notes(Reporter):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


@pytest.fixture
def computed(monkeypatch):
    """How often layers computed the branches of several configurations at once."""
    calls, own = [], PackedLinear._frozen
    monkeypatch.setattr(PackedLinear, "_frozen", lambda self, *args: calls.append(1) or own(self, *args))
    return calls


@pytest.mark.parametrize("fused", ["true", pytest.param("false", marks=pytest.mark.long)])
def test_lora_of_every_rank_place_and_position_trains_as_alone(run, tmp_path, computed, fused):
    recipe, _, learners = run(
        FINE % fused,
        "{grid: {positions: [l2, l4+, all], rank: [2, 3], targets: [all-linear, [q_proj, down_proj]]}, holdout: 0.2}",
    )
    assert bool(computed) == (fused == "true")
    assert_as_alone(recipe, learners, tmp_path, [3, 4, 10])  # every position, rank and choice of targets


@pytest.mark.long
def test_optimizers_lengths_and_scales_may_differ(run, tmp_path):
    recipe, _, learners = run(
        "{method: lora, positions: l3, rank: 2, epochs: 2, learning_rate: 3e-3, micro_batch_size: 4}",
        "{grid: {batch_size: [4, 8], optimizer: [adamw, adafactor], alpha: [2, 4], rslora: [false, true],"
        " init: [gaussian], exclude: [[o_proj]], rank_pattern: [{q_proj: 4}]}, holdout: 0.25}",
    )
    assert len({learner.taken for learner in learners}) == 2
    assert_as_alone(recipe, learners, tmp_path, [0, 3, 6, 13])


def test_early_stopping_and_best_checkpoints_are_each_configurations_own(run, tmp_path):
    recipe, _, learners = run(
        "{method: lora, positions: l2, rank: 2, steps: 9, batch_size: 4, warmup: 0, schedule: constant, holdout: 0.25,"
        " evaluate_every: 2, early_stopping: {patience: 1, min_delta: 0.001}, best_checkpoint: true}",
        "{grid: {learning_rate: [1e-9, 3e-3]}}",
    )
    assert [learner.stopped_early for learner in learners] == [True, False]
    assert_as_alone(recipe, learners, tmp_path)


@pytest.mark.parametrize("method", ["lora", pytest.param("reft", marks=pytest.mark.long)])
def test_behind_a_coarse_stage_of_last_positions_each_is_as_alone(run, tmp_path, method):
    """The coarse stage acts on tokens of the shared prefix too, where it reaches back farther.

    Both have SGD, whose steps are as exact as the gradients: Adam's of a vanishing gradient are not, and each run
    trains a coarse stage of its own, so their difference would show in all that the fine stage does.
    """
    coarse = "coarse: {method: lora, rank: 2, positions: l3, steps: 2, batch_size: 4, optimizer: sgd, learning_rate: 1}"
    fine = f"{{method: {method}, rank: 2, steps: 5, batch_size: 8, optimizer: sgd, learning_rate: 0.5}}"
    recipe, _, learners = run(fine, "{grid: {positions: [l1+, l5+]}, holdout: 0.2}", coarse=coarse)
    assert_as_alone(recipe, learners, tmp_path)


@pytest.mark.parametrize("positions", ["l2", pytest.param("all", marks=pytest.mark.long)])
def test_without_reuse_whole_rows_give_the_same(run, tmp_path, positions):
    grid = f"{{grid: {{positions: [{positions}], seed: [1, 5]}}, holdout: 0.2}}"
    recipe, _, learners = run(FINE.replace("fused: %s", "reuse: false"), grid)
    assert_as_alone(recipe, learners, tmp_path)


def test_dropout_is_each_configurations_own_stream(run):
    """The others of a pass, and how it is split, do not matter to it; none is drawn for a rate of 0."""
    fine = (
        "{method: lora, positions: l2, rank: 2, steps: 4, batch_size: 4, learning_rate: 1e-2, cache: 'off', fused: %s}"
    )
    _, _, one = run(fine % "true", "{grid: {dropout: [0.0, 0.3], seed: [0, 1]}}", "one")
    _, _, two = run(fine % "true", "{grid: {dropout: [0.3], seed: [1]}, tokens_per_pass: 9}", "two")
    _, _, pefts = run(fine % "false", "{grid: {dropout: [0.0, 0.3], seed: [0, 1]}}", "pefts")
    assert one[3].losses == trained_losses(two[0].losses, 1e-2, 6)
    assert one[3].losses != trained_losses(one[1].losses, 1e-2, 6)
    for packed, by_peft in zip(one, pefts, strict=True):
        assert packed.losses == trained_losses(by_peft.losses, 1e-2, 6)


def test_a_wrong_packed_product_is_not_taken_and_this_is_said(run, tmp_path, monkeypatch):
    right = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: right(self, x) * 1.01)
    notes = Notes()
    recipe, _, learners = run(FINE % "true", "{grid: {positions: [l2], seed: [1, 5]}, holdout: 0.2}", to=notes)
    assert any(note.startswith("fused is off, PEFT's own layers compute: it differs") for note in notes.said)
    assert_as_alone(recipe, learners, tmp_path)


def test_a_configuration_that_diverges_leaves_the_others_as_they_are(run, tmp_path):
    recipe, found, learners = run(
        "{method: lora, positions: l2, rank: 2, steps: 5, batch_size: 4, warmup: 0}",
        "{grid: {learning_rate: [1e-2, 1e38]}}",
    )
    assert [learner.diverged for learner in learners] == [False, True]
    assert_as_alone(recipe, learners, tmp_path, [0])


@pytest.mark.parametrize("positions", ["l2", pytest.param("all", marks=pytest.mark.long)])
def test_the_winner_is_saved_loads_and_repeats_itself(run, tmp_path, positions):
    recipe, found, _ = run(
        f"{{method: lora, positions: {positions}, rank: 2, steps: 6, batch_size: 4}}",
        "{grid: {learning_rate: [1e-4, 3e-2]}, holdout: 0.25, evaluate_winner: true}",
    )
    folder = found.directory
    assert json.loads((folder / "results.json").read_text())["winner"] == found.results[0].name
    alone = heft.train(load_recipe(folder / "winner.yaml", output=str(tmp_path / "alone")))
    mine = load_file(folder / "adapter" / "fine" / "adapter_model.safetensors")
    other = load_file(alone.directory / "adapter" / "fine" / "adapter_model.safetensors")
    assert_tensors(mine, other, of_weights(3e-2, 6))
    assert found.evaluation.accuracy == pytest.approx(alone.stages[-1].accuracy)
    model, tokenizer = heft.load(folder / "adapter")
    evaluation = heft.evaluate(model, tokenizer, recipe.task, recipe.evaluation)
    assert evaluation.metrics.accuracy == found.evaluation.accuracy


@pytest.mark.parametrize("last", ["all", "l2"])
def test_the_model_is_what_it_was_when_a_sweep_is_over(run, monkeypatch, last):
    seen = []
    own = arrange.gone_afterwards
    monkeypatch.setattr(arrange, "gone_afterwards", lambda model: seen.append(model) or own(model))
    with pytest.raises(HeftError, match="every configuration diverged"):
        run(f"{{method: lora, positions: {last}, rank: 2, steps: 5, batch_size: 4, warmup: 0}}",
            "{grid: {learning_rate: [1e38]}}")  # fmt: skip
    (model,) = seen
    assert list(model.peft_config) == ["coarse"]
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    assert layers
    assert all(list(layer.lora_A) == ["coarse"] and not layer.lora_variant for layer in layers)
    assert tracker_of(model) is None


def test_modules_that_do_not_show_whose_token_is_whose_are_refused():
    model = tiny.tiny_model("mistral", tie_word_embeddings=False)
    stage = LoraStage(method="lora", rank=2, steps=1, targets=["q_proj", "lm_head"])
    with pytest.raises(HeftError, match="side by side, which LoRA cannot do on lm_head: the output head sees"):
        require_apart(model, [Configuration("c00", {}, stage)])
    require_apart(model, [Configuration("c00", {}, stage.model_copy(update={"targets": ["q_proj"]}))])
