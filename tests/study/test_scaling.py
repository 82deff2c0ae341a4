"""Scaling by hand-worked cases and by search."""

import itertools

import pytest

from heft.study.scaling import Rate, scaled, total


def flat(cost):
    return Rate(cost, cost, 1)


@pytest.mark.parametrize(
    ("planned", "costs", "target", "steps"),
    [
        ([10], [1], 25, [25]),
        ([10, 20], [1, 1], 60, [20, 40]),
        ([10, 20], [1, 1], 31, [10, 21]),  # 10.33 and 20.67: of 30, 31, 31 and 32 the one that keeps to rounding
        ([3, 3], [2, 5], 7, [1, 1]),
        ([100, 1], [1, 1], 10, [9, 1]),  # the second cannot be less than one step
        ([4], [3], 1, [1]),
    ],
)
def test_the_total_comes_as_near_as_whole_steps_allow(planned, costs, target, steps):
    rates = [flat(cost) for cost in costs]
    assert total(rates, scaled(planned, rates, target)) == total(rates, steps)


def test_no_way_to_round_comes_nearer():
    planned, rates, target = [7, 13, 5], [flat(3.1), flat(0.7), flat(11.3)], 201.0
    found = scaled(planned, rates, target)
    factor = target / total(rates, planned)
    ways = itertools.product(*([int(factor * n), int(factor * n) + 1] for n in planned))
    assert abs(total(rates, found) - target) == pytest.approx(min(abs(total(rates, way) - target) for way in ways))


def test_steps_that_reuse_the_first_epoch_are_counted_at_their_own_cost():
    rate = Rate(first=10.0, later=1.0, epoch=5)
    assert rate.cost(3) == 30
    assert rate.cost(8) == 53
    assert scaled([2], [rate], 60) == [15]
