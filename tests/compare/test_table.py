"""A comparison's tables: every figure in its column, from figures that are all unlike."""

from dataclasses import replace

from heft.compare.results import ArmResult, Comparison, Costs, PairResult
from heft.compare.table import tables

ARM = ArmResult(
    name="a",
    stage="fine",
    seeds=[3, 4],
    n=200,
    accuracy=0.75,
    interval=(0.7, 0.8),
    wilson=[],
    balanced_accuracy=0.72,
    majority=0.6,
    predictions={"0": 0.4, "1": 0.6},
    labels=["no", "yes"],
    collapsed=[],
    seed_sd=0.015,
    costs=Costs(90.0, 2e9, 4e9, 1234, 50, 60, 3e6),
)
PAIR = PairResult(
    first="a",
    second="b",
    n=200,
    groups=180,
    seeds=[3, 4],
    difference=0.05,
    interval=(0.01, 0.09),
    standard_error=0.02,
    p_value=0.012,
    p_holm=0.036,
    mcnemar=[{"seed": 3, "won": 20, "lost": 9, "p": 0.061}, {"seed": 4, "won": 0, "lost": 0, "p": None}],
    seed_sd=0.011,
    question_se=0.019,
    smallest_difference=0.07,
    verdict="better",
    words="",
)


def cells(table):
    return [dict(zip(table.headings, row, strict=True)) for row in table.rows]


def test_scores_and_costs_of_an_arm_stand_under_their_headings():
    scores, costs = tables(Comparison([ARM], [], None))
    assert cells(scores) == [
        {"arm": "a", "after": "fine", "seeds": "3, 4", "accuracy": "75.0 %", "95 % interval": "70.0–80.0 %",
         "balanced": "72.0 %", "majority": "60.0 %", "seed SD": "1.5", "answers": "yes 60 %, no 40 %"}
    ]  # fmt: skip
    assert cells(costs) == [
        {"arm": "a", "time": "90 s", "FLOPs": "2 GFLOP", "without reuse": "4 GFLOP", "tokens": "1,234",
         "trained": "50", "stored": "60", "memory": "3 MB"}
    ]  # fmt: skip


def test_figures_of_a_pair_stand_under_their_headings():
    *_, pairs, sources = tables(Comparison([ARM], [PAIR], None))
    assert cells(pairs) == [
        {"first": "a", "second": "b", "the first is": "better", "difference": "+5.0", "95 % interval": "+1.0 to +9.0",
         "p": "0.012", "p Holm": "0.036", "detectable": "7.0"}
    ]  # fmt: skip
    assert cells(sources) == [
        {"first": "a", "second": "b", "won:lost": "20:9; 0:0", "McNemar p": "0.061; –", "question SE": "1.9",
         "seed SD": "1.1"}
    ]  # fmt: skip


def test_answers_are_said_by_label_by_place_or_as_one_only():
    def answers(**given):
        return cells(tables(Comparison([replace(ARM, **given)], [], None))[0])[0]["answers"]

    assert answers(labels=None) == "40 / 60 %"
    assert answers(predictions=None) == "–"
    assert answers(collapsed=[4]) == "one only (seed 4)"
    assert answers(collapsed=[3, 4]) == "one only"
