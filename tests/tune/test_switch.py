"""When the second stage begins, by hand-made curves."""

import pytest

from heft.tune.switch import Offer


def switch_of(found):
    """The number of the first fork that is the switch."""
    return next(number for number, offer in enumerate(found) if offer.is_the_switch)


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


def test_the_switch_is_where_a_unit_of_cost_first_buys_more_in_the_fine_stage():
    # the coarse stage falls by 1.0, 0.4 and 0.08 a step, the fine one by 0.3 wherever it begins
    coarse = [3.0, 2.0, 1.2, 0.88]
    found = offers(coarse, [loss - 0.3 for loss in coarse])
    assert [offer.coarse_buys for offer in found[:3]] == pytest.approx([1.0, 0.4, 0.08])
    assert [offer.fine_buys for offer in found] == pytest.approx([0.3] * 4)
    assert switch_of(found) == 2


def test_a_cheap_fine_stage_is_switched_to_earlier():
    coarse = [3.0, 2.0, 1.2, 0.88]
    assert switch_of(offers(coarse, [loss - 0.3 for loss in coarse], costs=(1.0, 0.25))) == 0


def test_where_the_coarse_stage_always_buys_more_the_switch_is_at_its_end():
    coarse = [8.0, 6.0, 3.0, 0.5]
    assert switch_of(offers(coarse, [loss - 0.01 for loss in coarse])) == 3


def test_a_fine_stage_that_diverged_buys_nothing_and_a_coarse_one_that_did_cannot_go_on():
    assert switch_of(offers([3.0, 2.9, 2.8], [None, 2.0, 2.0])) == 1
    assert Offer(1, 3.0, None, None, 2.9, 1.0).is_the_switch
    assert switch_of(offers([3.0, 2.0], [None, None])) == 1


def test_a_loss_that_rises_buys_less_than_nothing():
    offer = Offer(1, 1.0, 1.2, 1.0, 0.99, 1.0)
    assert offer.coarse_buys == pytest.approx(-0.2)
    assert offer.is_the_switch
    assert offer.as_dict()["fine_buys"] == pytest.approx(0.01)
