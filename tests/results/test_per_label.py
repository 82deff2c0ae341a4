"""Figures for each label, against the definitions counted row by row and a case worked by hand."""

import random

import pytest

from heft.results.per_label import confused, confusion, label_figures, macro_f1
from heft.results.records import Record


def records(pairs, width):
    return [Record(f"{i}", gold, given, gold == given, (-1.0,) * width) for i, (gold, given) in enumerate(pairs)]


def test_a_case_worked_by_hand():
    """Label 0: 3 right, 3 given, 2 hits; 1: 2 right, 2 given, 1 hit; 2: 1 right, never given; 3: neither."""
    found = confusion(records([(0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (2, 4)], 5), 5)
    assert found[0] == [2, 1, 0, 0, 0]
    figures = label_figures(found)
    assert (figures[0].precision, figures[0].recall, figures[0].f1) == (2 / 3, 2 / 3, 2 / 3)
    assert (figures[1].precision, figures[1].recall, figures[1].f1) == (0.5, 0.5, 0.5)
    assert (figures[2].precision, figures[2].recall, figures[2].f1) == (None, 0.0, 0.0)
    assert (figures[3].precision, figures[3].recall, figures[3].f1) == (None, None, None)
    assert (figures[4].precision, figures[4].recall, figures[4].f1) == (0.0, None, 0.0)
    assert macro_f1(figures) == pytest.approx((2 / 3 + 1 / 2) / 4)  # of four labels that occur
    assert confused(found) == [(0, 1, 1), (1, 0, 1), (2, 4, 1)]


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_the_definitions_counted_row_by_row(seed):
    rng = random.Random(seed)
    pairs = [(rng.randrange(4), rng.randrange(4)) for _ in range(200)]
    figures = label_figures(confusion(records(pairs, 4), 4))
    for label, each in enumerate(figures):
        hits = sum(gold == given == label for gold, given in pairs)
        false_positives = sum(given == label != gold for gold, given in pairs)
        false_negatives = sum(gold == label != given for gold, given in pairs)
        precision, recall = hits / (hits + false_positives), hits / (hits + false_negatives)
        assert (each.precision, each.recall) == (pytest.approx(precision), pytest.approx(recall))
        assert each.f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_the_most_confused_pair_comes_first():
    found = confused(confusion(records([(0, 1)] * 2 + [(1, 2)] * 5 + [(2, 2)] * 9, 3), 3))
    assert found == [(1, 2, 5), (0, 1, 2)]


def test_no_rows_have_no_macro_f1():
    assert macro_f1(label_figures([[0, 0], [0, 0]])) is None
