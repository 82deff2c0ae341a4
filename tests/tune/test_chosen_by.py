"""What trials are chosen by, as a person reads it."""

from types import SimpleNamespace

import pytest

from heft.tune.chosen_by import EXPECTED_ERRORS, LOSS, chosen_by


@pytest.mark.parametrize(
    ("by", "figure", "difference", "alone", "fall"),
    [
        (EXPECTED_ERRORS, "37.1 %", "−0.6 (−3.1 to +4.2)", "+0.6", "0.21 points"),
        (LOSS, "0.3712", "−0.006 (−0.031 to +0.042)", "+0.006", "0.0021"),
    ],
)
def test_a_share_is_in_percent_and_points_and_a_loss_as_it_is(by, figure, difference, alone, fall):
    assert by.figure(0.37124) == figure
    assert by.difference(-0.0061, (-0.0312, 0.0418)) == difference
    assert by.difference(0.0061, None) == alone
    assert by.fall(0.0021) == fall


@pytest.mark.parametrize(("choices", "by"), [(((1,), (2,)), EXPECTED_ERRORS), ((), LOSS)])
def test_it_is_a_share_where_rows_have_choices(choices, by):
    assert chosen_by([SimpleNamespace(choices=choices)]) is by
