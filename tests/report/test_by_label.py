"""Figures by label, of more labels than are shown too."""

from types import SimpleNamespace

import pytest

from heft.report.by_label import MOST_LABELS, arm_f1, section
from heft.report.examples import Texts
from heft.results.records import Record


def test_macro_f1_is_given_of_more_labels_than_are_shown():
    count = MOST_LABELS + 100
    chosen = [place if place else 1 for place in range(count)]  # of the first label's only row the answer is the second
    records = [Record(str(gold), gold, given, gold == given) for gold, given in enumerate(chosen)]
    evaluated = SimpleNamespace(records=records, summary=SimpleNamespace(labels=[f"label {i}" for i in range(count)]))
    arm = SimpleNamespace(name="a", stage="fine", runs=[SimpleNamespace(after=lambda stage: evaluated)])
    # F1 of the first is 0, of the second 2 · 1 / (1 + 2), of all others 1
    assert arm_f1(arm) == pytest.approx((0 + 2 / 3 + count - 2) / count)
    assert section(arm, Texts({})) is None
