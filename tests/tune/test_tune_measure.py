"""What trials are chosen by: 1 − p of the right choice, computed by hand, alone and side by side."""

import math
from dataclasses import replace

import pytest

from heft.adapters.detach import gone_afterwards
from heft.evaluation.likelihood import plain_log_likelihoods
from heft.recipe.recipe import LoraStage, ReftStage
from heft.tune import measure
from heft.tune.measure import MOST_CHOICES, are_few
from heft.tune.trial import COARSE, FINE
from tolerance import of_losses, rounded

RATE, STEPS = 1e-2, 4
SAME = {"rank": 2, "batch_size": 4, "learning_rate": RATE, "steps": STEPS, "holdout": 0.25, "evaluate_every": STEPS}


def expected(rows, scores, most):
    """Losses of rows and how many are right, by hand."""
    if most == 2:  # too many choices: p of the right one among all texts
        return [1 - math.exp(own[row.example.gold]) for own, row in zip(scores, rows, strict=True)], None
    found, right = [], 0
    for own, row in zip(scores, rows, strict=True):
        found.append(1 - math.exp(own[row.example.gold]) / sum(map(math.exp, own)))
        right += max(own) == own[row.example.gold]
    return found, right / len(rows)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("most", [MOST_CHOICES, 2])
def test_a_loss_is_one_minus_the_probability_of_the_right_choice(bench_of, keeps, most, monkeypatch):
    monkeypatch.setattr(measure, "MOST_CHOICES", most)
    bench, tried = bench_of(keeps), LoraStage(positions="l4+", targets=["q_proj", "v_proj"], **SAME)
    rows, pad_id = bench.validation_rows, bench.base.tokenizer.pad_token_id
    assert any(len(choice) > 1 for row in rows for choice in row.choices)
    with gone_afterwards(bench.base.model):
        bench.train_stage({COARSE: tried}, COARSE, tried)
        found = bench.measure({COARSE: tried})
        scores = plain_log_likelihoods(bench.base.model, rows, 4, pad_id)
    losses, accuracy = expected(rows, scores, most)
    assert found.row_losses == rounded(losses)
    assert found.loss == pytest.approx(sum(losses) / len(rows))
    assert found.accuracy == accuracy


@pytest.mark.parametrize("most", [MOST_CHOICES, 2])
def test_side_by_side_each_is_measured_as_alone(bench_of, most, monkeypatch):
    monkeypatch.setattr(measure, "MOST_CHOICES", most)
    bench = bench_of(True)
    stages = [ReftStage(positions=positions, **SAME) for positions in ("l2", "l3")]
    together = bench.train_on_top(None, FINE, stages, [{}, {}])
    for stage, found in zip(stages, together, strict=True):
        (alone,) = bench.train_on_top(None, FINE, [stage], [{}])
        close = of_losses(RATE, STEPS)
        assert found.row_losses == pytest.approx(alone.row_losses, rel=close)
        assert found.loss == pytest.approx(alone.loss, rel=close)
        assert (found.accuracy is None) == (most == 2)
        assert found.accuracy == alone.accuracy


def test_one_row_with_too_many_choices_decides_for_all_so_that_repeats_are_measured_alike(bench_of):
    bench = bench_of(False)
    many = bench.trained_rows[0]
    bench = bench_of(False, [replace(row, choices=row.choices * 9) if row is many else row for row in bench.rows])
    assert are_few(bench.validation_rows)
    stages = [ReftStage(positions=positions, **SAME) for positions in ("l2", "l3")]
    for found in (bench.train_on_top(None, FINE, stages[:1], [{}]), bench.train_on_top(None, FINE, stages, [{}, {}])):
        assert {each.accuracy for each in found} == {None}
        assert len(found[0].row_losses) == len(bench.validation_rows)


def test_of_generated_answers_it_is_the_loss_of_a_token(bench_of):
    rows = bench_of(False).rows
    bench = bench_of(False, [replace(row, choices=()) for row in rows])
    stages = [ReftStage(positions=positions, **SAME) for positions in ("l2", "l3")]
    (alone,) = bench.train_on_top(None, FINE, stages[:1], [{}])
    answers = [replace(row, choices=(row.answer,)) for row in bench.validation_rows]
    with gone_afterwards(bench.base.model):
        bench.train_stage({FINE: stages[0]}, FINE, stages[0])
        scores = plain_log_likelihoods(bench.base.model, answers, 4, bench.base.tokenizer.pad_token_id)
    losses = [-own for (own,) in scores]
    assert alone.row_losses == rounded(losses)
    assert alone.loss == pytest.approx(sum(losses) / sum(len(row.answer) for row in answers))
    assert alone.accuracy is None
    together = bench.train_on_top(None, FINE, stages, [{}, {}])
    assert together[0].row_losses == pytest.approx(losses, rel=of_losses(RATE, STEPS))
