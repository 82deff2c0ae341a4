"""The expected share of wrong answers, computed by hand."""

import math
from types import SimpleNamespace

import pytest

from heft.evaluation.expected_errors import expected_error


def test_choices_that_are_compared_by_byte_stay_as_far_apart_as_texts_are():
    row = SimpleNamespace(choices=((1,), (2, 3)), example=SimpleNamespace(gold=1, choices=("ab", "abcdef")))
    scores = [-4.0, -6.0]  # −2 and −1 a byte; four bytes are their mean size, weighted by these
    size = 10 / 3
    assert expected_error(row, scores, "bytes") == pytest.approx(1 / (1 + math.exp(size)))
    assert expected_error(row, scores, "none") == pytest.approx(1 / (1 + math.exp(-2)))
    size = 10 / 7  # −4 and −3 a token
    assert expected_error(row, scores, "tokens") == pytest.approx(1 / (1 + math.exp(size)))
    assert expected_error(row, [0.0, 0.0], "bytes") == 0.5
