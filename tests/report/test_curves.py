import json

import pytest
from report_files import write_run

from heft.compare.runs import read_run
from heft.report.curves import smoothed, stage_curves, why_ended
from heft.results.metrics import measure
from heft.results.records import Record
from heft.results.summary import StageSummary


def test_stages_follow_one_another_on_one_axis_of_steps(tmp_path):
    coarse, fine = stage_curves(read_run(write_run(tmp_path / "run")))
    assert (coarse.start, coarse.end, fine.start, fine.end) == (0, 4, 4, 8)
    assert [step for step, _ in fine.loss] == [5, 6, 7, 8]
    assert fine.ended == "it took its 4 planned steps"


def test_losses_that_are_no_number_are_counted_and_not_drawn(tmp_path):
    path = write_run(tmp_path / "run")
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"stage": "fine", "step": 4, "eval_loss": float("nan")}) + "\n")
    fine = stage_curves(read_run(path))[1]
    assert (fine.lost, fine.validation) == (1, [])


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        ({"ended_because": "no gain in 3 evaluations."}, "no gain in 3 evaluations"),
        ({}, "its planned steps were taken"),
    ],
)
def test_why_a_stage_ended_is_taken_from_what_the_run_says(summary, words):
    metrics = measure([Record("a", 0, 0, True, (-1.0, -2.0))])
    assert why_ended(StageSummary.of("fine", metrics, **summary)) == words


def test_a_smoothed_loss_is_the_mean_of_a_tenth_of_the_points_about_each():
    points = [(step, float(step % 2)) for step in range(40)]
    smooth = smoothed(points)
    assert [step for step, _ in smooth] == list(range(40))
    assert smooth[0] == points[0]
    assert smooth[1][1] == pytest.approx((0 + 1 + 0) / 3)
    assert smooth[20][1] == pytest.approx((0 + 1 + 0 + 1 + 0) / 5)
    assert smooth[39] == points[39]


def test_a_straight_line_stays_one_and_few_points_stay_as_they_are():
    line = [(step, 3.0 - 0.1 * step) for step in range(30)]
    assert [value for _, value in smoothed(line)] == pytest.approx([value for _, value in line])
    few = [(0, 1.0), (1, 5.0)]
    assert smoothed(few) == few


def test_the_learning_rate_goes_on_over_the_same_steps(tmp_path):
    path = write_run(tmp_path / "run")
    rows = [json.loads(line) | {"learning_rate": 0.001} for line in (path / "metrics.jsonl").read_text().splitlines()]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert stage_curves(read_run(path))[1].rate == [(step, 0.001) for step in (5, 6, 7, 8)]
