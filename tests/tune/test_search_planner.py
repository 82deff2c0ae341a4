"""Which candidates a round trains, and for how long, where steps have a price each."""

from types import SimpleNamespace

import pytest

from heft.recipe.recipe import LoraStage
from heft.recipe.tune import TuneSettings
from heft.tune.halving import Contender
from heft.tune.planner import Planner
from heft.tune.space import Candidate
from heft.tune.trial import COARSE, Outcome

EPOCH = 50
"""Steps in which all rows are seen once."""


@pytest.fixture
def planner():
    """One whose steps cost as much as the rank of a candidate is."""
    prices = SimpleNamespace(steps_within=lambda amount, before, name, stages: int(amount / stages[0].rank))
    counter = SimpleNamespace(epoch=lambda stage: EPOCH)
    groups = lambda stages: [[number] for number in range(len(stages))]  # noqa: E731
    bench = SimpleNamespace(holdout=0.2, groups=groups, counter=counter)
    return Planner(None, TuneSettings(), bench, None, prices, None)


def contender(price: int, *steps: int) -> Contender:
    """One that had trials of so many steps, each better than the one before."""
    stage = LoraStage(method="lora", rank=price)
    had = [Outcome(f"{price}-{count}", "lora", {}, {}, 1 / count, None, steps=count) for count in steps]
    return Contender(Candidate({}, stage), had)


def test_what_is_left_is_parted_among_rounds_and_trials(planner):
    tried = [contender(1), contender(2), contender(4)]
    assert planner.plan(600, None, COARSE, tried, 9, 3) == {"numbers": [0, 1, 2], "steps": [100, 50, 25]}
    assert planner.plan(600, None, COARSE, tried, 2, 3) == {"numbers": [0, 1], "steps": [150, 75]}


def test_a_candidate_whose_steps_are_too_dear_makes_way_in_a_first_round(planner):
    tried = [contender(100), contender(1), contender(2)]
    assert planner.plan(600, None, COARSE, tried, 3, 3) == {"numbers": [1, 2], "steps": [150, 75]}


def test_others_make_way_for_the_best_of_those_that_had_a_trial(planner):
    best, wider = contender(10, 10, 30), contender(10)
    assert planner.plan(800, None, COARSE, [best, wider], 2, 1) == {"numbers": [0, 1], "steps": [40, 40]}
    longer = contender(10, 10, 41)  # half of the amount pays for no longer one
    assert planner.plan(800, None, COARSE, [longer, wider], 2, 1) == {"numbers": [0], "steps": [80]}
    longest = contender(10, 10, 85)  # nor does the whole, so that a shorter one is tried, and the other
    assert planner.plan(800, None, COARSE, [longest, wider], 2, 1) == {"numbers": [0, 1], "steps": [29, 40]}


def test_a_first_round_has_fewer_trials_where_they_would_be_shorter_than_an_epoch(planner):
    tried = [contender(1) for _ in range(12)]
    assert planner.first_plan(27 * EPOCH, 0, None, COARSE, tried) == {"numbers": [*range(9)], "steps": [EPOCH] * 9}
    fewer = planner.first_plan(26 * EPOCH, 0, None, COARSE, tried)  # a third of it for the first round
    assert fewer == {"numbers": [*range(8)], "steps": [26 * EPOCH // 3 // 8] * 8}
    two_rounds = planner.first_plan(10 * EPOCH, 0, None, COARSE, tried)  # enough for three of one third of it each
    assert two_rounds == {"numbers": [0, 1, 2], "steps": [10 * EPOCH // 6] * 3}


def test_other_trials_of_a_first_round_may_be_shorter_than_an_epoch(planner):
    tried = [contender(price) for price in (1, 2, 1, 2, 1, 2, 1, 2, 1)]
    half, full = 25, EPOCH
    assert planner.first_plan(27 * EPOCH, 0, None, COARSE, tried)["steps"] == [full, half] * 4 + [full]


def test_a_first_round_has_no_fewer_trials_for_that_than_of_which_one_goes_on(planner):
    tried = [contender(1) for _ in range(12)]
    assert planner.first_plan(60, 0, None, COARSE, tried) == {"numbers": [0, 1, 2], "steps": [10] * 3}
    assert planner.first_plan(40, 0, None, COARSE, tried) == {"numbers": [0, 1], "steps": [10] * 2}


def test_nothing_is_planned_where_nothing_is_paid_for(planner):
    assert planner.plan(7, None, COARSE, [contender(1), contender(1)], 9, 3) == {"numbers": [], "steps": []}
