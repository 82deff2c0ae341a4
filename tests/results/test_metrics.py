"""Figures from records, against cases worked by hand and against published values."""

import pytest

from heft.results.metrics import measure
from heft.results.records import Record


def choice(gold, prediction):
    return Record(f"{gold}{prediction}", gold, prediction, gold == prediction, (-1.0, -2.0, -3.0))


def test_figures_of_a_case_worked_by_hand():
    records = [choice(0, 0), choice(0, 0), choice(0, 1), choice(1, 1), choice(1, 0)]
    metrics = measure(records)
    assert (metrics.n, metrics.accuracy, metrics.majority) == (5, 0.6, 0.6)
    assert metrics.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert metrics.predictions == {"0": 0.6, "1": 0.4, "2": 0.0}


def test_a_constant_answer_has_the_balanced_accuracy_of_chance():
    metrics = measure([choice(gold, 0) for gold in (0, 0, 0, 1)])
    assert (metrics.accuracy, metrics.balanced_accuracy) == (0.75, 0.5)
    assert metrics.predictions["0"] == 1.0


def test_what_has_no_meaning_for_generated_answers_is_absent():
    metrics = measure([Record("a", "12", "12", True, text=" 12"), Record("b", "3", None, False, text="?")])
    assert metrics.accuracy == 0.5
    assert (metrics.balanced_accuracy, metrics.majority, metrics.predictions) == (None, None, None)
    assert (metrics.loss, metrics.rouge_l, metrics.chrf) == (None, None, None)


def test_generated_texts_have_their_mean_loss_and_rouge_l_worked_by_hand():
    given = [("the cat", "the cat sat", 1.0), ("a dog", "a dog", 3.0), (None, "a bird", None)]
    records = [Record(gold, gold, text, text == gold, text=text, loss=loss) for text, gold, loss in given]
    metrics = measure(records, texts=True)
    assert metrics.loss == 2.0
    assert metrics.rouge_l == pytest.approx((0.8 + 1 + 0) / 3)  # two words of two, and of three: F is 2 · 2 / (2 + 3)
    assert 0 < metrics.chrf < 1
    assert measure(records[1:2], texts=True).chrf == 1.0
    assert measure(records, texts=False).rouge_l is None


def test_rows_with_few_choices_leave_those_that_others_have():
    two = Record("two", 0, 0, True, (-1.0, -2.0))
    assert measure([choice(2, 2), two]).predictions == {"0": 0.5, "1": 0.0, "2": 0.5}
