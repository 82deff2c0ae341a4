"""How long trials are expected to take, from what earlier ones took."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from heft.data.encode import EncodedExample
from heft.recipe.files import load_recipe
from heft.recipe.recipe import ReftStage
from heft.study.scaling import Rate
from heft.tasks.example import generation_example
from heft.tune.ledger import Ledger
from heft.tune.prices import Counter, Prices
from heft.tune.trial import Outcome
from tiny_recipe import write_recipe


def outcome(kind, flop_seconds, behind=False, together=1, batch_size=16, **more):
    """A trial of 100 FLOPs whose training took so many seconds for each, and 7 seconds beside it."""
    key = f"{kind}-{behind}-{together}-{flop_seconds}"
    trained = 100 * flop_seconds
    about = {"seconds": trained + 7, "trained_seconds": trained, "flops": 100, "training_flops": 100, **more}
    stages = {"s": {"batch_size": batch_size}}
    return Outcome(key, kind, stages, {}, 1.0, None, behind=behind, together=together, **about)


@pytest.fixture
def prices(tmp_path):
    def make(*measured):
        recipe = load_recipe(write_recipe(tmp_path, "{s: {method: reft}}"))
        ledger = Ledger(tmp_path / "trials.jsonl", {each.key: each for each in measured})
        return Prices("seconds", Counter(recipe, [], 4096), ledger, 20)

    return make


WHOLE, SHORT, TWO = outcome("lora", 1), outcome("lora", 5, behind=True), outcome("lora", 3, behind=True, together=2)


@pytest.mark.parametrize(
    ("measured", "asked", "flop"),
    [
        ([WHOLE, SHORT, TWO], ("lora", False, False, 16), 1),
        ([WHOLE, SHORT, TWO], ("lora", True, False, 16), 5),
        ([WHOLE, SHORT, TWO], ("lora", True, True, 16), 3),
        ([WHOLE, TWO], ("lora", True, False, 16), 3),  # as few tokens a step, though side by side
        ([WHOLE], ("lora", True, True, 16), 1),
        ([WHOLE, SHORT], ("joint", True, False, 16), 5),  # as LoRA, where the method was not measured
        ([WHOLE, outcome("reft", 9)], ("joint", False, False, 16), 1),
        ([WHOLE, SHORT, outcome("joint", 2)], ("joint", True, False, 16), 2),
        ([WHOLE, SHORT, outcome("lora", 4, True, batch_size=64)], ("lora", True, False, 64), 4),
        ([WHOLE, SHORT], ("lora", True, False, 64), 5),
    ],
)
def test_a_trial_is_as_fast_as_the_nearest_kind_that_was_measured(prices, measured, asked, flop):
    assert prices(*measured).speed(*asked) == pytest.approx((flop, 7))


@pytest.mark.parametrize("asked", [("lora", False, False, 16), ("lora", True, True, 64), ("joint", False, False, 16)])
def test_a_trial_that_diverged_early_says_nothing_of_how_long_one_takes(prices, asked):
    ended = replace(outcome("lora", 0.01), key="d", loss=None)
    assert prices(WHOLE, ended).speed(*asked) == pytest.approx((1, 7))
    assert prices(ended).speed(*asked) == pytest.approx((0.01, 7))  # there is no other


def test_what_was_done_once_for_trials_of_a_kind_is_not_expected_again(prices):
    first = outcome("lora", 3, seconds=300 + 7 + 50, trying_seconds=50)
    assert prices(first).speed("lora", False, False, 16) == pytest.approx((3, 7))
    assert first.spent("seconds") == 357  # though it is paid


def test_training_alone_is_estimated_for_one_of_several_with_its_prefixes_as_measured(prices):
    one = outcome("lora", 3, behind=True, together=2, prefix_flops=60, prefix_seconds=11)
    assert prices(WHOLE, SHORT, one).of_last_stage(one) == pytest.approx(40 * 5 + 11)
    assert prices(WHOLE, SHORT, TWO).of_last_stage(TWO) == pytest.approx(100 * 5)


def test_a_speed_is_that_of_the_last_dozen_trials_together(prices):
    old = [replace(outcome("lora", 50), key=f"old{n}") for n in range(3)]
    new = [replace(outcome("lora", 1), key=f"new{n}") for n in range(11)]
    large = replace(outcome("lora", 4, flops=500, trained_seconds=2000, seconds=2031), key="large")
    speed = prices(*old, *new, large).speed("lora", False, False, 16)
    assert speed == pytest.approx(((11 * 100 + 2000) / (11 * 100 + 500), (11 * 7 + 31) / 12))


def test_a_whole_recipe_costs_its_last_stage_and_the_one_before_it(prices):
    trial = outcome("reft", 2, training_seconds=30, before_seconds=5, before_flops=80)
    assert prices(trial).of_whole(trial) == 35
    assert replace(prices(trial), unit="flops").of_whole(trial) == 180


STAGE = ReftStage(positions="l2", batch_size=16)


def in_an_epoch_of_five_steps(prices, **settings):
    """A step costs 10 FLOPs in the first epoch, and 2 after it."""
    return replace(prices, counter=SimpleNamespace(rate=lambda *about: Rate(10.0, 2.0, 5)), **settings)


@pytest.mark.parametrize(
    ("amount", "most_epochs", "steps"),
    [
        (60, 20, 10),
        (59.9, 20, 9),
        (50, 20, 5),
        (49.9, 20, 4),
        (9.9, 20, 0),
        (1e9, 3, 15),
        (1e9, 2.5, 12),
        (1e9, 1, 8),  # a shorter trial says little
    ],
)
def test_a_trial_has_as_many_steps_as_its_part_of_the_budget_pays_for(prices, amount, most_epochs, steps):
    counted = in_an_epoch_of_five_steps(prices(), unit="flops", most_epochs=most_epochs)
    assert counted.steps_within(amount, {}, "s", [STAGE]) == steps


@pytest.mark.parametrize(("amount", "stages", "steps"), [(37, 1, 10), (36.9, 1, 9), (29, 2, 10), (28.9, 2, 9)])
def test_in_seconds_what_each_trial_takes_beside_its_steps_is_paid_too(prices, amount, stages, steps):
    """Of 60 FLOPs at half a second, or a quarter side by side, and 7 seconds for each of those that are."""
    trials = outcome("reft", 0.5, True), outcome("reft", 0.25, True, together=2), outcome("reft", 4)
    measured = in_an_epoch_of_five_steps(prices(*trials))
    assert measured.steps_within(amount, {}, "s", [STAGE] * stages) == steps


def test_what_a_step_costs_follows_from_one_epoch_and_from_two_and_is_counted_once(prices, monkeypatch):
    asked = []

    def paid(self, before, name, stages):
        (stage,) = stages
        asked.append((stage.rank, stage.steps))
        return stage.rank * (10.0 * min(stage.steps, 5) + 2.0 * max(0, stage.steps - 5))

    monkeypatch.setattr(Counter, "paid", paid)
    monkeypatch.setattr(Counter, "epoch", lambda self, stage: 5)
    counter = prices().counter
    for rank, steps in ((1, 30), (1, 77), (3, 30)):
        stage = STAGE.model_copy(update={"rank": rank, "steps": steps})
        assert counter.rate({}, "s", [stage]) == Rate(10.0 * rank, 2.0 * rank, 5)
    assert asked == [(1, 5), (1, 10), (3, 5), (3, 10)]


@pytest.mark.parametrize(("holdout", "batch_size", "steps"), [(0.2, 4, 2), (0.2, 3, 3), (0.0, 4, 3)])
def test_an_epoch_is_of_the_rows_that_are_trained_on(prices, holdout, batch_size, steps):
    rows = [EncodedExample(generation_example("t", "x", " a", "a"), (n,), (), (1,), 0) for n in range(10)]
    stage = STAGE.model_copy(update={"holdout": holdout, "batch_size": batch_size})
    assert replace(prices().counter, rows=rows).epoch(stage) == steps
