"""Predictions are what evaluation finds, row by row, without the answers; bad rows are all told."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from heft.errors import HeftError
from heft.prediction import predict
from heft.prediction.opening import opening
from heft.prediction.output import output_rows
from heft.prediction.predict import Predictions, predict_rows
from prediction.predicting import TASKS, trained


@pytest.fixture(scope="module", params=TASKS)
def run(request, tmp_path_factory):
    name = request.param
    return name, *trained(tmp_path_factory.mktemp(name), name)


def places(rows):
    return [(f"rows.csv:{number}", row) for number, row in enumerate(rows, 2)]


def without(rows, field):
    return [{key: value for key, value in row.items() if key != field} for row in rows]


@pytest.mark.parametrize("stages", [(), ("coarse",), ("base",)])
def test_predictions_are_those_of_the_evaluation_without_the_answers(run, stages):
    name, directory, rows, records = run
    field = TASKS[name][2]
    made = predict_rows(opening(directory, stages).load(), places(without(rows, field)))
    expected = records[stages[0] if stages else "fine"]
    assert made.metrics is None
    assert made.answers_cut == sum(record.cut for record in expected)
    for answer, record in zip(made.answers, expected, strict=True):
        if record.text is not None:
            assert (answer.text, answer.answer) == (record.text, record.prediction)
            continue
        assert answer.answer == answer.labels[record.prediction]
        total = sum(map(math.exp, record.log_likelihoods))
        softmax = [math.exp(value) / total for value in record.log_likelihoods]
        assert answer.probabilities == pytest.approx(softmax, abs=1e-6)
        assert answer.probability == max(answer.probabilities)


def test_another_base_than_the_recipes_is_not_looked_for_at_the_recipes_revision(tmp_path):
    path = tmp_path / "r.yaml"
    model = "{name: org/a, revision: abc}"
    path.write_text(f"name: r\nmodel: {model}\ntask: {{name: whereabouts}}\nstages: {{a: {{method: lora}}}}\n")
    found = {base: opening(path, base=base).settings.model for base in (None, "org/a", "org/b")}
    assert {base: (model.name, model.revision) for base, model in found.items()} == {
        None: ("org/a", "abc"), "org/a": ("org/a", "abc"), "org/b": ("org/b", None),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (1, ["1 row in 2.0 s (0.5 rows per second)", "1 prompt was cut to 9 tokens",
             "1 answer was cut at task.max_new_tokens (5)",
             "1 row has an answer that the task t does not know", "1 of 2 rows was left out:\n  a:1: odd"]),
        (2, ["2 rows in 2.0 s (1.0 rows per second)", "2 prompts were cut to 9 tokens",
             "2 answers were cut at task.max_new_tokens (5)",
             "2 rows have an answer that the task t does not know",
             "2 of 4 rows were left out:\n  a:1: odd (and in 1 more: :1)"]),
    ],
)  # fmt: skip
def test_what_there_is_to_say_is_counted_in_singular_and_plural(number, told):
    task = SimpleNamespace(name="t", settings=SimpleNamespace(max_length=9), max_new_tokens=5)
    rows = [("a:1", {})] * 2 * number
    faults = [("a:1", "odd")] * number
    made = Predictions(
        rows, [], faults, None, unusable_answers=number, prompts_cut=number, answers_cut=number, seconds=2.0, task=task
    )
    assert made.notes == told


def test_where_the_answers_are_there_the_accuracy_is_that_of_the_evaluation(run):
    name, directory, rows, records = run
    made = predict_rows(opening(directory / "adapter").load(), places(rows))
    assert made.metrics.accuracy == sum(r.correct for r in records["fine"]) / len(rows)
    assert made.unusable_answers == 0
    wrong = [dict(row) for row in rows]
    wrong[0][TASKS[name][2]] = "none of these"
    wrong[1][TASKS[name][2]] = None
    again = predict_rows(opening(directory).load(), places(wrong))
    assert again.metrics.n == len(rows) - 2
    assert again.unusable_answers == 1
    assert again.answers == made.answers


def test_rows_that_cannot_be_used_are_all_told_with_their_lines_or_left_out(run):
    name, directory, rows, _ = run
    question = "question"
    bad = [*without(rows[:1], question), *rows[1:3], {**rows[3], question: 7}]
    answering = opening(directory).load()
    told = r"2 of 4 rows cannot be used(.|\n)*rows.csv:2: question is missing(.|\n)*rows.csv:5: question must be text"
    with pytest.raises(HeftError, match=told):
        predict_rows(answering, places(bad))
    made = predict_rows(answering, places(bad), skip_bad_rows=True)
    whole = predict_rows(answering, places(rows))
    assert [each and each.answer for each in made.answers] == [None, *(a.answer for a in whole.answers[1:3]), None]
    out = output_rows(made)
    added = list(out[1])[len(rows[1]) :]
    assert all(out[0][name] is None and out[3][name] is None for name in added)
    assert out[1][added[-1]] is not None
    assert out[1].items() >= rows[1].items()
    with pytest.raises(HeftError, match="none of 1 rows can be used"):
        predict_rows(answering, places(bad[:1]), skip_bad_rows=True)
    with pytest.raises(HeftError, match="there are no rows"):
        predict_rows(answering, [])


def test_the_batch_size_changes_nothing(run):
    _, directory, rows, _ = run
    answering = opening(directory).load()
    one = replace(answering, evaluation=answering.evaluation.model_copy(update={"batch_size": 1}))
    for a, b in zip(
        predict_rows(answering, places(rows)).answers, predict_rows(one, places(rows)).answers, strict=True
    ):
        assert (a.answer, a.text) == (b.answer, b.text)
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


def test_columns_follow_from_the_kind_of_answer(run):
    name, directory, rows, _ = run
    (row, *_) = output_rows(predict_rows(opening(directory).load(), places(rows)))
    added = {
        "boolq": ["prediction", "probability", "probability_no", "probability_yes"],
        "arc_easy": ["prediction", "probability", *(f"probability_{x}" for x in ("a pan", "an egg", "the sun"))],
        "gsm8k": ["prediction", "text"],
    }[name]
    assert list(row) == [*rows[0], *added]
    if name != "gsm8k":
        assert sum(row[key] for key in added[2:]) == pytest.approx(1)
        assert row[f"probability_{row['prediction']}"] == row["probability"]


def test_a_column_that_a_prediction_would_have_is_refused_before_it_is_made(run, monkeypatch):
    name, directory, rows, _ = run
    added = "text" if name == "gsm8k" else "probability"
    monkeypatch.setattr(predict, "answer_examples", lambda *_: pytest.fail("was computed"))
    with pytest.raises(HeftError, match=f"the rows have a column {added} already"):
        predict_rows(opening(directory).load(), places([{**row, added: 1} for row in rows]))


def test_what_is_no_stage_and_no_run_is_said(run, tmp_path):
    _, directory, rows, _ = run
    with pytest.raises(HeftError, match="no stage 'corse'; did you mean 'coarse'"):
        opening(directory, ["corse"])
    with pytest.raises(HeftError, match="name it alone"):
        opening(directory, ["base", "coarse"])
    with pytest.raises(HeftError, match="does not exist; expected the directory of a run"):
        opening(tmp_path / "none")
    recipe = directory.parent / "recipe.yaml"
    with pytest.raises(HeftError, match="for its stages give the run's directory"):
        opening(recipe, ["coarse"])
    base = predict_rows(opening(recipe).load(), places(rows))
    assert base.answers == predict_rows(opening(directory, ["base"]).load(), places(rows)).answers
    assert opening("quickstart").settings.task.name == "whereabouts"
    with pytest.raises(HeftError, match="quickstart.yaml is a recipe, of which the base model answers"):
        opening("quickstart", ["coarse"])
