"""The trained weights of LoRA's trials, behind which second stages are tried."""

import time
from dataclasses import replace

import pytest
import torch

from heft.data.rows import read_data
from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.recipe.recipe import LoraStage, ReftStage
from heft.runtime.reporter import Reporter
from heft.sweep.training import SideBySide
from heft.tune.bench import Bench
from heft.tune.logged import Kept
from heft.tune.measure import Measured
from heft.tune.prices import Counter
from heft.tune.trial import COARSE, FINE, key_of, sized
from heft.tune.weights import Before, WeightFiles, WeightsInMemory
from tiny_recipe import write_recipe

HOLDOUT = 0.25


@pytest.fixture
def bench(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path, "{s: {method: lora}}"))
    base = load_base(recipe.model)
    rows = read_data(recipe, Reporter()).train
    files = WeightFiles(tmp_path / "weights")
    return Bench(recipe, base, rows, HOLDOUT, Counter(recipe, rows, 4096), Kept(), Reporter(), 4096, files)


def lora(positions: str, rate: float = 1e-2, batch_size: int = 6, **settings) -> LoraStage:
    own = {"positions": positions, "rank": 2, "learning_rate": rate, "batch_size": batch_size, **settings}
    return sized(LoraStage(method="lora", **own), 8, HOLDOUT)


def trials(bench, *stages, keeps=True):
    assert bench.groups(stages) == [list(range(len(stages)))]
    return bench.train_on_top(None, COARSE, stages, [{} for _ in stages], keeps)


def test_side_by_side_are_trained_those_of_last_positions_whose_batches_are_equal(bench):
    few, many = lora("l4+"), lora("l4+", batch_size=12)
    assert bench.groups([few, lora("all"), many, lora("l2+"), many]) == [[0, 3], [2, 4], [1]]
    assert bench.groups([many, few, few]) == [[1, 2], [0]]


@pytest.mark.parametrize(
    "stages",
    [
        [lora("all")],
        [lora("all", init="pissa")],  # trained at rank 2 on other base weights, kept at rank 4 on the base's own
        [lora("all", init="olora", rslora=True, rank_pattern={"q_proj": 1}, alpha_pattern={"v_proj": 4})],
        [lora("l4+"), lora("l2+", 3e-2)],
    ],
    ids=["alone", "pissa", "olora", "side by side"],
)
def test_behind_kept_weights_is_the_trial_that_they_are_of(bench, stages):
    for stage, trial in zip(stages, trials(bench, *stages), strict=True):
        before = Before(COARSE, stage, 1.0, 1.0, lambda stage=stage: bench.weights_of(COARSE, stage))
        still = sized(ReftStage(method="reft", learning_rate=1e-30, batch_size=6), 8, HOLDOUT)
        (found,) = bench.train_on_top(before, FINE, [still], [{}])
        assert found.row_losses == pytest.approx(trial.row_losses, rel=1e-4)
        assert found.row_losses != pytest.approx(bench.measure({FINE: still}).row_losses, rel=1e-2)  # of the base alone


def test_seconds_of_training_side_by_side_are_without_those_of_validation_rows(bench, monkeypatch):
    clock, late = time.perf_counter, [0.0]

    def slow(training, due, on_metrics):
        late[0] += 1000.0 * len(due)

    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])
    monkeypatch.setattr(SideBySide, "_validate", slow)
    monkeypatch.setattr("heft.tune.bench.measured_together", lambda *args: [Measured(1.0, None)] * 2)
    found = trials(bench, lora("l4+"), lora("l2+"))
    assert sum(each.seconds for each in found) > 2000.0
    assert sum(each.trained_seconds for each in found) < 1000.0


def test_trials_under_autocast_are_trained_and_measured_alone(bench):
    """Side by side they are measured as they train; alone in the model's own dtype, as others that are compared."""
    few = [lora("l4+", bf16=True), lora("l2+", bf16=True)]
    assert bench.groups(few) == [[0], [1]]


def test_weights_that_are_gone_are_trained_again_to_the_same(bench):
    stage = lora("all")
    trials(bench, stage)
    (file,) = bench.weights.folder.iterdir()
    kept = bench.weights.of(key_of({COARSE: stage}))
    assert any(float(each.abs().max()) > 0 for name, each in kept.items() if "lora_B" in name)
    file.unlink()
    again = bench.weights_of(COARSE, stage)
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)
    assert file.exists()


def test_nothing_is_kept_where_it_is_not_asked_for(bench):
    trials(bench, lora("all"), keeps=False)
    assert not bench.weights.folder.exists()


def test_weights_in_memory_are_those_of_the_files(bench):
    stage = lora("all")
    trials(bench, stage)
    expected = bench.weights.of(key_of({COARSE: stage}))
    in_memory = replace(bench, weights=WeightsInMemory())
    trials(in_memory, stage)
    trials(in_memory, lora("all", 3e-2))  # another trial on the same model changes nothing of them
    found = in_memory.weights_of(COARSE, stage)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert in_memory.weights.of("other") is None
