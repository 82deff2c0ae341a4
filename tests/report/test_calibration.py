import math

import pytest

from heft.report.calibration import calibration_error, confidence, reliability
from heft.results.records import Record


def record(share: float, correct: bool) -> Record:
    """An answer given with that share of a softmax over two choices."""
    return Record("x", 0, 0 if correct else 1, correct, (math.log(share), math.log(1 - share)), prompt="0")


def test_confidence_is_the_largest_softmax_probability_at_any_common_offset():
    assert confidence([math.log(0.7) - 900, math.log(0.3) - 900]) == pytest.approx(0.7)


def test_the_error_of_a_case_worked_by_hand():
    # ten answers at 0.95, nine right: gap 0.05; ten at 0.65, four right: gap 0.25
    records = [record(0.95, i < 9) for i in range(10)] + [record(0.65, i < 4) for i in range(10)]
    bins = reliability(records)
    assert [(b.n, b.right) for b in bins] == [(10, 4), (10, 9)]
    assert calibration_error(bins) == pytest.approx(0.15)


def test_full_confidence_falls_into_the_last_bin():
    (only,) = reliability([Record("x", 0, 0, True, (0.0, -1000.0), prompt="0")])
    assert (only.low, only.high, only.confidence) == (0.9, 1.0, 1.0)


def test_generated_answers_have_no_bins():
    assert reliability([Record("x", "4", "4", True, text="4", prompt="0")]) == []
