"""Hints from made-up figures: each rule speaks where something is wrong, and is silent just beside it."""

import random
from dataclasses import replace

import pytest

from heft.results.hints import (
    RunFacts,
    StageFacts,
    below_majority,
    changed_nothing,
    letters_at_chance,
    never_ended,
    one_answer,
)
from heft.results.metrics import measure
from heft.results.records import Record
from heft.results.summary import StageSummary
from heft.results.training_hints import hints_of, overfitted, still_falling, too_few_steps

LABELS = ["bug", "billing", "praise", "other"]


def answers(predictions, golds, width=4):
    return [
        Record(f"row {i}", gold, given, given == gold, (-1.0,) * width)
        for i, (given, gold) in enumerate(zip(predictions, golds, strict=True))
    ]


def right_in(share, n=200, width=4):
    """Answers right in that share of rows, wrong by one place in the others; each label is right equally often."""
    golds = [i % width for i in range(n)]
    return answers([g if i < share * n else (g + 1) % width for i, g in enumerate(golds)], golds, width)


def texts(n, cut):
    return [Record(f"row {i}", "yes", "yes", True, text=" yes", cut=i < cut) for i in range(n)]


def falling(start, end, steps=60):
    return [(i + 1, start + (end - start) * i / (steps - 1)) for i in range(steps)]


def flat(level, steps=60, noise=0.05):
    rng = random.Random(0)
    return [(i + 1, level + noise * rng.uniform(-1, 1)) for i in range(steps)]


def stage(name, records, losses=(), validation=(), steps=60, ended="planned", labels=LABELS, **settings):
    summary = StageSummary.of(
        name, measure(records), steps=steps, ended=None if name == "base" else ended, labels=labels
    )
    return StageFacts(summary, records, {"steps": steps, "learning_rate": 1e-3, **settings}, losses, validation)


def run(*trained, base=None, task=None, parameters=None):
    return RunFacts(base or stage("base", right_in(0.3)), trained, task or {}, parameters)


def test_nothing_is_said_of_a_run_in_which_nothing_is_wrong():
    coarse = stage("coarse", right_in(0.7), falling(2.0, 0.9))
    fine = stage("fine", right_in(0.95), flat(0.3), flat(0.4, steps=5))
    assert hints_of(run(coarse, fine, task={"format": "letters"}, parameters=135_000_000)) == []


@pytest.mark.parametrize(("ones", "right", "spoken"), [(190, 50, 1), (189, 50, 0), (190, 180, 1), (190, 181, 0)])
def test_one_answer_to_everything_counts_from_95_percent_and_5_points_above_what_is_right(ones, right, spoken):
    golds = [1] * right + [0] * (200 - right)
    hints = one_answer(run(stage("fine", answers([1] * ones + [0] * (200 - ones), golds))))
    assert len(hints) == spoken
    if spoken:
        assert hints[0].seen == f"After fine the answer is “billing” for {ones} of 200 rows; it is right for {right}."
        assert "stages.fine.learning_rate: 0.00033" in hints[0].do


def test_one_answer_after_few_steps_asks_for_more_steps():
    fine = stage("fine", answers([0] * 40, [0, 1] * 20), steps=10, epochs=2.0)
    fine = replace(fine, settings={"epochs": 2.0})
    assert one_answer(run(fine))[0].do == "Train longer: `stages.fine.epochs: 10`."


def test_answers_of_generated_texts_can_be_one_too_and_few_rows_say_nothing():
    same = [Record(f"row {i}", str(i), "7", False, text=" 7") for i in range(20)]
    assert "“7” for 20 of 20 rows" in one_answer(run(stage("fine", same, labels=None)))[0].seen
    assert one_answer(run(stage("fine", same[:19], labels=None))) == []


@pytest.mark.parametrize(("right", "spoken"), [(120, True), (121, False)])
def test_below_the_majority_class_counts_up_to_its_share(right, spoken):
    golds = [2] * 120 + [0] * 80
    predictions = [g if i >= 200 - right else 3 for i, g in enumerate(golds)]
    hints = below_majority(run(stage("fine", answers(predictions, golds))))
    assert [hint.seen for hint in hints] == ["After fine accuracy is 60.0 %; always “praise” has 60.0 %."] * spoken


def test_generated_texts_have_no_majority_to_be_below_of():
    wrong = [replace(each, prediction=str(i), correct=False) for i, each in enumerate(texts(100, 0))]
    assert below_majority(run(stage("fine", wrong, labels=None))) == []


def test_one_answer_is_not_told_twice_as_below_the_majority():
    fine = stage("fine", answers([3] * 100, [0, 1] * 50))
    assert [hint.rule for hint in hints_of(run(fine)) if hint.rule in ("one_answer", "below_majority")] == [
        "one_answer"
    ]


@pytest.mark.parametrize(("won", "lost", "spoken"), [(0, 0, True), (5, 0, True), (6, 0, False), (5, 5, False)])
def test_a_stage_changed_nothing_where_few_answers_changed_and_mcnemar_shows_nothing(won, lost, spoken):
    """Exact p of 5:0 is 2·2⁻⁵ = 0.0625, of 6:0 it is 0.031; 10 of 200 changed answers are 5 %."""
    before = right_in(0.5)
    after = [
        replace(r, prediction=r.gold, correct=True) if 100 <= i < 100 + won
        else replace(r, prediction=(r.gold + 1) % 4, correct=False) if i < lost
        else r
        for i, r in enumerate(before)
    ]  # fmt: skip
    hints = changed_nothing(run(stage("coarse", before), stage("fine", after)))
    assert [hint.stage for hint in hints] == ["fine"] * spoken
    if spoken:
        assert hints[0].seen.startswith(f"Stage fine changed {won + lost} answers of 200 ({won} won, {lost} lost)")
        assert "`stages.fine.learning_rate: 0.003` or `stages.fine.steps: 180`" in hints[0].do


def test_a_stage_after_a_good_one_may_be_left_out_and_one_that_hardly_began_is_another_hint():
    good = stage("coarse", right_in(0.99))
    assert "Leave `stages.fine` out" in changed_nothing(run(good, stage("fine", right_in(0.99))))[0].do
    short = stage("fine", right_in(0.7), steps=4)
    told = hints_of(run(stage("coarse", right_in(0.7)), short))
    assert [(hint.rule, hint.stage) for hint in told] == [("too_few_steps", "fine")]


def test_a_stage_that_trains_nothing_is_never_told_a_setting_that_it_refuses():
    """A recipe refuses a learning rate of a stage that takes an adapter as it is, and 0 steps of any."""
    records = answers([0] * 40, [0, 1] * 20)
    taken = stage("coarse", records, steps=0, ended="frozen")
    taken = replace(taken, settings={"method": "lora", "from": "DIR"})
    cut = replace(taken, records=texts(100, 95), summary=taken.summary.model_copy(update={"labels": None}))
    even = replace(taken, records=answers([0, 1] * 20, [1, 0] * 20))
    base = stage("base", records)
    found = [
        *one_answer(run(taken)),
        *below_majority(run(replace(even, summary=taken.summary))),
        *changed_nothing(run(taken, base=base)),
        *never_ended(run(cut)),
    ]
    assert [hint.rule for hint in found] == ["one_answer", "below_majority", "changed_nothing", "never_ended"]
    for hint in found:
        assert "Train it on: `stages.coarse.steps: 50`" in hint.do
        assert "learning_rate" not in hint.do
    assert hints_of(run(taken, stage("fine", right_in(0.95)), base=base))[0].rule == "changed_nothing"


@pytest.mark.parametrize(("cut", "spoken"), [(0, ""), (9, ""), (10, "max_new_tokens: 128"), (95, "task.stop")])
def test_answers_cut_at_the_limit_count_from_ten_percent(cut, spoken):
    hints = never_ended(run(stage("fine", texts(100, cut), labels=None), task={"max_new_tokens": 64}))
    assert [spoken in hint.do for hint in hints] == [True] * bool(spoken)
    if spoken:
        assert f"{cut} of 100 answers were cut at task.max_new_tokens (64)" in hints[0].seen


@pytest.mark.parametrize(
    ("options", "spoken"),
    [
        ({}, True),
        ({"task": {"format": "cloze"}}, False),
        ({"parameters": 7_000_000_000}, False),
        ({"parameters": None}, False),
        ({"base": stage("base", right_in(0.4))}, False),
    ],
)
def test_letters_at_chance_counts_for_small_models_whose_interval_holds_chance(options, spoken):
    usual = {"task": {"format": "letters"}, "parameters": 135_000_000, "base": stage("base", right_in(0.27))}
    hints = letters_at_chance(run(stage("fine", right_in(0.5)), **usual | options))
    assert [hint.do for hint in hints] == ["Write `task.format: cloze`: the option’s text is the answer."] * spoken
    assert letters_at_chance(run(stage("fine", right_in(0.9)), **usual | options)) == []


@pytest.mark.parametrize(
    ("steps", "ended", "spoken"), [(19, "planned", 1), (20, "planned", 0), (19, "early_stopping", 0)]
)
def test_fewer_than_twenty_steps_are_too_few(steps, ended, spoken):
    fine = stage("fine", right_in(0.5), steps=steps, ended=ended)
    hints = too_few_steps(run(fine))
    assert [hint.do for hint in hints] == ["Write `stages.fine.steps: 50`."] * spoken
    assert too_few_steps(run(replace(fine, summary=fine.summary.model_copy(update={"accuracy": 0.98})))) == []


def test_a_loss_still_falls_by_its_slope_against_its_noise():
    def told(losses, accuracy=0.7, **options):
        return [hint.seen for hint in still_falling(run(stage("fine", right_in(accuracy), losses, **options)))]

    assert told(falling(2.0, 1.0)) == ["The loss of stage fine still fell at the end: 1.32 → 1 in its last third."]
    assert told(flat(1.0)) == []
    assert told(falling(2.0, 1.9)) == []  # by less than 5 % in the last third
    noisy = [
        (step, loss + noise) for (step, loss), (_, noise) in zip(falling(1.2, 1.0), flat(0, noise=0.5), strict=True)
    ]
    assert told(noisy) == []  # by less than its noise
    assert told(falling(0.2, 0.001)) == []  # nothing is left to learn
    assert told(falling(2.0, 1.0), accuracy=0.99) == []
    assert told(falling(2.0, 1.0), ended="early_stopping") == []
    assert told(falling(2.0, 1.0, steps=17)) == []


def test_a_falling_loss_names_twice_the_epochs_where_the_recipe_has_epochs():
    fine = stage("fine", right_in(0.7), falling(2.0, 1.0), epochs=1.5)
    fine = replace(fine, settings={**fine.settings, "steps": None})
    assert still_falling(run(fine))[0].do == "Write `stages.fine.epochs: 3`."


def test_an_earlier_stage_whose_loss_falls_is_gone_on_from():
    assert (
        still_falling(run(stage("coarse", right_in(0.5), falling(2, 1)), stage("fine", right_in(0.6), flat(0.9)))) == []
    )


@pytest.mark.parametrize(
    ("before", "after", "level", "spoken"),
    [(0.6, 0.6, 0.01, 1), (0.6, 0.61, 0.01, 0), (0.6, 0.6, 0.2, 0), (0.95, 0.93, 0.01, 0)],
)
def test_rows_learned_by_heart_are_told_where_accuracy_did_not_rise(before, after, level, spoken):
    fine = stage("fine", right_in(after), [*falling(2, 0.5, 30), *((i, level) for i in range(31, 61))])
    hints = overfitted(run(stage("coarse", right_in(before)), fine))
    assert len(hints) == spoken
    if spoken:
        assert "`stages.fine.holdout: 0.1` and `stages.fine.early_stopping: true`" in hints[0].do


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        (
            {"holdout": 0.1},
            "Write `stages.fine.best_checkpoint: true` and `stages.fine.early_stopping: true`, or train on",
        ),
        ({"holdout": 0.1, "best_checkpoint": True}, "Write `stages.fine.early_stopping: true`, or train on more rows."),
        ({"holdout": 0.1, "early_stopping": {"patience": 2}, "best_checkpoint": True}, "Train on more rows."),
    ],
)
def test_no_setting_is_advised_that_a_recipe_has_already(settings, advice):
    losses = [*falling(2, 0.5, 30), *((i, 0.01) for i in range(31, 61))]
    fine = stage("fine", right_in(0.6), losses, **settings)
    assert overfitted(run(stage("coarse", right_in(0.6)), fine))[0].do.startswith(advice)


def test_a_validation_loss_that_rose_is_told_unless_the_best_weights_were_kept():
    rising = [(10, 1.0), (20, 0.8), (30, 0.9)]
    fine = stage("fine", right_in(0.7), flat(0.5), rising, holdout=0.1)
    assert (
        overfitted(run(fine))[0].seen
        == "The validation loss of stage fine rose to 0.9 after its lowest, 0.8 at step 20."
    )
    assert "best_checkpoint: true" in overfitted(run(fine))[0].do
    assert overfitted(run(replace(fine, validation=[*rising[:2], (30, 0.87)]))) == []
    assert overfitted(run(replace(fine, validation=rising[1:]))) == []
    assert overfitted(run(replace(fine, settings={**fine.settings, "best_checkpoint": True}))) == []


def test_every_hint_says_what_was_seen_what_it_means_and_which_setting_to_write():
    fine = stage("fine", right_in(0.3), falling(2, 1))
    for hint in hints_of(run(stage("coarse", right_in(0.3), steps=3), fine)):
        assert hint.seen.endswith(".")
        assert hint.means.endswith(".")
        assert "`stages." in hint.do
        assert str(hint) == f"{hint.seen} {hint.means} {hint.do}"
