"""Which candidates a round trains, and for how long, where steps have a price each."""

from types import SimpleNamespace

import pytest

from heft.recipe.recipe import LoraStage
from heft.recipe.tune import TuneSettings
from heft.tune.halving import Contender
from heft.tune.planner import Planner
from heft.tune.space import Candidate
from heft.tune.trial import COARSE, Outcome


@pytest.fixture
def planner():
    """One whose steps cost as much as the rank of a candidate is."""
    prices = SimpleNamespace(steps_within=lambda amount, before, name, stages: int(amount / stages[0].rank))
    bench = SimpleNamespace(holdout=0.2, groups=lambda stages: [[number] for number in range(len(stages))])
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


def test_nothing_is_planned_where_nothing_is_paid_for(planner):
    assert planner.plan(7, None, COARSE, [contender(1), contender(1)], 9, 3) == {"numbers": [], "steps": []}
