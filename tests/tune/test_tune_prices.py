"""How long trials are expected to take, from what earlier ones took."""

from dataclasses import replace

import pytest

from heft.recipe.files import load_recipe
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
