"""When the second stage begins, by hand-made curves."""

import pytest

from heft.tune.switch import Offer, switch_of


def offers(coarse, fine, costs=(1.0, 1.0)):
    """Forks at steps 1, 2, 4, … of a coarse curve; a segment costs what its steps are times the first cost, the short
    fine trial of each fork one step times the second."""
    found = []
    for number, loss in enumerate(coarse):
        step = 2**number
        is_last = number + 1 == len(coarse)
        after = None if is_last else coarse[number + 1]
        paid = None if is_last else costs[0] * step
        found.append(Offer(step, loss, after, paid, fine[number], None if fine[number] is None else costs[1]))
    return found


def test_what_a_unit_of_cost_buys_is_the_fall_of_the_loss():
    # the coarse stage falls by 1.0, 0.4 and 0.08 a step, the fine one by 0.3 wherever it begins
    coarse = [3.0, 2.0, 1.2, 0.88]
    found = offers(coarse, [loss - 0.3 for loss in coarse])
    assert [offer.coarse_buys for offer in found[:3]] == pytest.approx([1.0, 0.4, 0.08])
    assert found[3].coarse_buys is None
    assert [offer.fine_buys for offer in found] == pytest.approx([0.3] * 4)
    cheap = offers(coarse, [loss - 0.3 for loss in coarse], costs=(1.0, 0.25))
    assert [offer.fine_buys for offer in cheap] == pytest.approx([1.2] * 4)


def test_a_second_stage_that_buys_more_than_a_segment_is_no_switch_where_a_later_fork_ends_lower():
    found = offers([0.90, 0.70, 0.25], [0.40, 0.35, 0.24])
    assert found[0].fine_buys > found[0].coarse_buys
    assert switch_of(found) == 2


def test_the_switch_is_early_where_a_second_stage_reaches_lower_from_there():
    assert switch_of(offers([0.90, 0.70, 0.60], [0.40, 0.30, 0.35])) == 1


def test_the_coarse_stage_alone_counts_where_no_second_stage_lowered_it():
    assert switch_of(offers([0.90, 0.50, 0.30], [0.40, 0.35, 0.60])) == 2
    diverged = offers([3.0, 2.0], [None, None])
    assert switch_of(diverged) == 1
    assert [offer.as_dict()["fine_buys"] for offer in diverged] == [None, None]


def test_of_forks_that_reach_the_same_the_first_is_taken():
    assert switch_of(offers([0.9, 0.3, 0.2], [0.2, 0.3, 0.2])) == 0


def test_a_loss_that_rises_buys_less_than_nothing():
    offer = Offer(1, 1.0, 1.2, 1.0, 0.99, 1.0)
    assert offer.coarse_buys == pytest.approx(-0.2)
    assert offer.reached == 0.99
    assert offer.as_dict()["fine_buys"] == pytest.approx(0.01)
