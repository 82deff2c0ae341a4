import json

import pytest
from report_files import write_run

from heft.compare.runs import read_run
from heft.report.curves import stage_curves, why_ended
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
