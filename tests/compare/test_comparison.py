"""Comparisons from run directories: what is paired, what is claimed and what is refused."""

import json

import numpy as np
import pytest

from compare.making import make_run, records
from heft.compare.arms import Arm, arms_of, stage_arms
from heft.compare.comparison import compare, stage_pairs
from heft.compare.runs import read_run
from heft.compare.table import markdown
from heft.errors import HeftError
from heft.results.proportions import mcnemar

N = 200


def answers(share, seed):
    return np.random.default_rng(seed).random(N) < share


@pytest.fixture
def arm(tmp_path):
    """Writes an arm's runs, one for each seed, and reads them; `share` is how often they are right."""

    def write(name, share, seeds=(0,), rank=4, **rest):
        stages = {"base": records(answers(0.3, 99), **rest), "fine": None}
        runs = []
        for seed in seeds:
            stages["fine"] = records(answers(share, seed + 1000 * rank), **rest)
            recipe = {"name": name, "stages": {"fine": {"method": "lora", "rank": rank}}}
            runs.append(read_run(make_run(tmp_path / f"{name}-{seed}", stages, seed, recipe)))
        return runs

    return write


def test_two_arms_of_three_seeds(arm):
    first, second = arm("good", 0.9, (0, 1, 2)), arm("poor", 0.5, (2, 1, 0), rank=8)
    found = compare(arms_of([*first, *second]))
    good, poor = found.arms
    assert good.seeds == [0, 1, 2]
    right = np.array([[r.correct for r in run.final.records] for run in first])
    assert good.accuracy == right.mean()
    assert good.seed_sd == pytest.approx(right.mean(1).std(ddof=1))
    assert good.interval[0] < good.accuracy < good.interval[1]
    assert good.predictions == pytest.approx({"0": good.accuracy, "1": 1 - good.accuracy})  # 0 is always right
    (pair,) = found.pairs
    assert (pair.verdict, pair.n, pair.groups, pair.seeds) == ("better", N, N, [0, 1, 2])
    assert pair.difference == pytest.approx(good.accuracy - poor.accuracy)
    for test, one, two in zip(pair.mcnemar, first, reversed(second), strict=True):
        both = [(a.correct, b.correct) for a, b in zip(one.final.records, two.final.records, strict=True)]
        won, lost = both.count((True, False)), both.count((False, True))
        assert test == {"seed": one.seed, "won": won, "lost": lost, "p": mcnemar(won, lost)}
    assert pair.words.startswith("good is better than poor: ")
    assert "200 questions, 3 seeds" in pair.words


def test_answers_are_paired_by_their_questions_ids_in_whatever_order_they_stand(tmp_path):
    one, two = answers(0.5, 1), answers(0.6, 2)
    runs = [
        read_run(make_run(tmp_path / name, {"base": made, "fine": made}, recipe={"name": name, "task": {"name": "t"}}))
        for name, made in (("one", records(one)), ("two", records(two)[::-1]))
    ]
    (test,) = compare([Arm(name, "fine", (run,)) for name, run in zip("ab", runs, strict=True)]).pairs[0].mcnemar
    assert (test["won"], test["lost"]) == ((one & ~two).sum(), (two & ~one).sum())


def test_one_seed_claims_nothing_of_other_seeds(arm):
    found = compare(arms_of([*arm("a", 0.9), *arm("b", 0.5, rank=8)]))
    assert found.arms[0].seed_sd is None
    assert found.pairs[0].seed_sd is None
    assert "of these runs: one seed, so nothing is said of other seeds" in found.pairs[0].words
    wide = compare(arms_of([*arm("c", 0.9, (0, 1)), *arm("d", 0.5, (0,), rank=8)])).pairs[0]
    assert wide.seeds == []
    assert "nothing is said of other seeds" in wide.words


def test_other_seeds_are_compared_unpaired(arm):
    pair = compare(arms_of([*arm("a", 0.9, (0, 1, 2)), *arm("b", 0.5, (3, 4, 5), rank=8)])).pairs[0]
    assert (pair.seeds, pair.mcnemar, pair.seed_sd, pair.verdict) == ([], [], None, "better")
    assert "seeds 0, 1, 2 against 3, 4, 5, so not paired by seed" in pair.words
    assert "on every question" not in pair.words


def test_seeds_of_which_some_are_common_are_told_and_tested_by_these(arm):
    a, b = arm("a", 0.9, (0, 1, 2)), arm("b", 0.5, (1, 2), rank=8)
    pair = compare(arms_of([*a, *b])).pairs[0]
    assert pair.seeds == []
    assert "seeds 0, 1, 2 against 1, 2, so not paired by seed" in pair.words
    both = compare(arms_of([*a[1:], *b])).pairs[0]
    assert pair.mcnemar == both.mcnemar
    assert [test["seed"] for test in pair.mcnemar] == [1, 2]


def test_a_sample_that_could_not_show_any_difference_says_so(tmp_path):
    runs = [
        read_run(
            make_run(tmp_path / name, {"base": records([1] * 3), "fine": records(made)}, 0, {"name": name, "x": name})
        )
        for name, made in (("a", [1, 1, 1]), ("b", [0, 0, 0]))
    ]
    pair = compare(arms_of(runs)).pairs[0]
    assert (pair.verdict, pair.smallest_difference) == ("no difference shown", None)
    assert (
        pair.words.endswith("This sample could hardly have shown any difference.") or "one and the same" in pair.words
    )
    assert "This sample could hardly have shown any difference." in pair.words


def test_a_base_is_set_against_every_seed(arm):
    runs = arm("a", 0.9, (0, 1, 2))
    pair = compare(arms_of([*runs, runs[0]], [None, None, None, "base"])).pairs[0]
    assert pair.seeds == [0, 1, 2]
    assert pair.seed_sd == pytest.approx(np.std([r.final.summary.accuracy for r in runs], ddof=1))


def test_what_is_like_chance_is_no_difference_shown(arm):
    pair = compare(arms_of([*arm("a", 0.5, (0, 1)), *arm("b", 0.5, (0, 1), rank=8)])).pairs[0]
    assert pair.verdict == "no difference shown"
    assert pair.interval[0] < 0 < pair.interval[1]
    assert f"A true difference of {100 * pair.smallest_difference:.1f} points" in pair.words


def test_a_verdict_never_says_more_than_interval_and_corrected_p(tmp_path):
    base, runs = np.zeros(N), []
    for name, won in (("six", 6), ("again", 6), ("many", 30)):
        made = base.copy()
        made[:won] = 1
        recipe = {"name": name, "stages": {"fine": {"method": name}}}
        runs.append(read_run(make_run(tmp_path / name, {"base": records(base), "fine": records(made)}, 0, recipe)))
    arms = arms_of([*runs, runs[0]], [None, None, None, "base"])
    six, again, many = compare(arms, reference="six:base").pairs
    assert many.verdict == "better"
    assert not any("Both are right, or both wrong" in pair.words for pair in (six, again, many))  # none was lost
    for pair in (six, again):  # 2 · 2⁻⁶ = 0.031, and twice that after Holm
        assert pair.p_value == pytest.approx(1 / 32, abs=0.005)
        assert pair.p_holm == pytest.approx(2 * pair.p_value)
        assert pair.interval[0] > 0
        assert pair.verdict == "no difference shown"
        assert "The interval leaves out 0, but p is above 0.05, corrected" in pair.words
    assert compare([arms[0], arms[3]]).pairs[0].verdict == "better"
    assert compare([arms[3], arms[0]]).pairs[0].verdict == "worse"


def test_without_discordant_pairs_nothing_is_decided(tmp_path):
    same = records(answers(0.5, 0))
    runs = [
        read_run(
            make_run(
                tmp_path / f"{rank}-{seed}", {"base": same, "fine": same}, seed, {"stages": {"fine": {"rank": rank}}}
            )
        )
        for rank in (1, 2)
        for seed in (0, 1)
    ]
    words = compare(arms_of(runs)).pairs[0].words
    assert "2 seeds" in words
    assert "one seed" not in words
    pair = compare(arms_of(runs[::2])).pairs[0]
    assert "one seed, so nothing is said of other seeds" in pair.words
    assert (pair.verdict, pair.interval, pair.p_value, pair.p_holm) == ("undecidable", None, None, None)
    assert (pair.standard_error, pair.smallest_difference, pair.mcnemar[0]["p"]) == (None, None, None)
    assert "Both are right, or both wrong, on every question." in pair.words


def test_questions_on_one_text_decide_nothing(arm):
    pair = compare(arms_of([*arm("a", 0.9, groups=[0] * N), *arm("b", 0.5, rank=8, groups=[0] * N)])).pairs[0]
    assert (pair.groups, pair.verdict) == (1, "undecidable")
    assert "All questions are about one text" in pair.words


def test_a_base_whose_runs_differ_is_its_first_run_in_its_own_figures_and_in_pairs(arm, tmp_path):
    runs = arm("a", 0.9, (0, 1))
    stages = {"base": records(answers(0.6, 7)), "fine": records(answers(0.9, 3))}
    other = read_run(make_run(tmp_path / "other", stages, 1, {"name": "a", "stages": runs[0].recipe["stages"]}))
    found = compare([arms_of(runs)[0], Arm("base", "base", (runs[0], other))])
    fine, base = found.arms
    assert base.accuracy == runs[0].after("base").summary.accuracy != other.after("base").summary.accuracy
    assert base.balanced_accuracy == runs[0].after("base").summary.balanced_accuracy
    assert found.pairs[0].difference == pytest.approx(fine.accuracy - base.accuracy)


def test_two_bases_are_compared_by_one_run_of_each(tmp_path):
    runs = {
        name: [
            read_run(make_run(tmp_path / f"{name}-{seed}", {"base": records(made), "fine": records(made)}, seed))
            for seed in (5, 3)
        ]
        for name, made in (("one", answers(0.3, 99)), ("two", answers(0.6, 7)))
    }
    (pair,) = compare([Arm(name, "base", tuple(own)) for name, own in runs.items()]).pairs
    (test,) = pair.mcnemar
    assert (pair.seeds, test["seed"]) == ([5], 5)
    one, two = answers(0.3, 99), answers(0.6, 7)
    assert (test["won"], test["lost"]) == ((one & ~two).sum(), (two & ~one).sum())
    assert pair.difference == pytest.approx(one.mean() - two.mean())


def test_a_stage_of_a_run_is_not_called_as_if_it_were_anothers_of_the_same_name(arm, tmp_path):
    one, other = arm("same", 0.9)[0], arm("same", 0.5, (1,), rank=8)[0]
    names = [found.name for found in arms_of([one, other], ["base", None])]
    assert names == ["same-0:base", "same-1"]
    assert [found.name for found in arms_of([one, one], ["base", None])] == ["same:base", "same"]


def test_runs_of_one_name_in_folders_of_one_name_are_called_by_two_folders(tmp_path):
    made = {"base": records([0, 1]), "fine": records([1, 1])}
    runs = [
        read_run(make_run(tmp_path / arm / "seed-0", made, recipe={"stages": {"fine": {"rank": len(arm)}}}))
        for arm in ("lora", "joint")
    ]
    assert [found.name for found in arms_of(runs)] == ["lora/seed-0", "joint/seed-0"]


def test_where_both_give_one_answer_only_it_is_said_once(arm):
    words = compare(arms_of([*arm("a", 1.0, (0, 1)), *arm("b", 1.0, (0, 1), rank=8)])).pairs[0].words
    assert words.endswith("on every question. Each of them gives one and the same answer to every question.")


def test_a_run_that_gives_one_answer_only_is_flagged(arm):
    found = compare(arms_of([*arm("a", 1.0), *arm("b", 0.5, rank=8)]))
    assert [result.collapsed for result in found.arms] == [[0], []]
    assert "a gives one and the same answer to every question" in found.pairs[0].words
    assert "one only" in markdown(found)


def test_costs_are_summed_over_stages_and_absent_where_unknown(tmp_path):
    made = records(answers(0.5, 0))
    stages = {"base": made, "coarse": made, "fine": made}
    known = read_run(make_run(tmp_path / "known", stages))
    base, coarse, fine = compare(stage_arms(known)).arms
    assert (coarse.costs.seconds, fine.costs.seconds, fine.costs.flops) == (10, 20, 4e9)
    assert (fine.costs.trainable_parameters, fine.costs.stored_parameters, fine.costs.peak_bytes) == (100, 60, 1000)
    assert (base.costs.seconds, base.costs.stored_parameters, base.costs.peak_bytes) == (0, 0, None)
    older = read_run(make_run(tmp_path / "older", stages, summary={"flops": None, "peak_bytes": None}))
    costs = compare(stage_arms(older)).arms[2].costs
    assert (costs.flops, costs.peak_bytes, costs.seconds) == (None, None, 20)


def test_costs_of_an_arm_are_means_over_its_seeds_and_absent_where_one_is_unknown(tmp_path):
    made = records(answers(0.5, 0))
    runs = [
        read_run(make_run(tmp_path / str(seed), {"base": made, "fine": made}, seed, summary=summary))
        for seed, summary in enumerate([{}, {"seconds": 30.0, "flops": None}, {"seconds": 50.0, "peak_bytes": 4000}])
    ]
    (arm,) = compare(arms_of(runs)).arms
    assert (arm.costs.seconds, arm.costs.flops) == (30.0, None)
    assert (arm.costs.tokens, arm.costs.peak_bytes) == (100, 2000)


def test_stages_of_one_run_are_compared_step_by_step(tmp_path):
    made = {name: records(answers(0.5, number)) for number, name in enumerate(("base", "coarse", "fine"))}
    arms = stage_arms(read_run(make_run(tmp_path / "r", made)))
    assert stage_pairs(arms) == [("coarse", "base"), ("fine", "coarse"), ("fine", "base")]
    assert stage_pairs(arms[:2]) == [("coarse", "base")]
    assert stage_pairs(arms[:1]) == []
    assert compare(arms[:1]).pairs == []
    for reference in (None, "base"):  # pairs that are given are those that are compared
        found = compare(arms, reference, pairs=stage_pairs(arms)[1:])
        assert [(pair.first, pair.second) for pair in found.pairs] == [("fine", "coarse"), ("fine", "base")]


def test_a_comparison_goes_into_json_and_markdown(arm):
    found = compare(arms_of([*arm("a|b", 0.9, (0, 1)), *arm("b", 0.5, (0, 1), rank=8)]))
    back = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert back["pairs"][0]["difference"] == found.pairs[0].difference
    text = markdown(found)
    assert text.startswith(f"- {found.pairs[0].words}\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") in (7, 8, 9, 10) for line in rows)


def test_runs_that_were_asked_other_things_are_refused_with_how_many(arm, tmp_path):
    (run,) = arm("a", 0.5)
    base = records(answers(0.3, 0))

    def refused(match, made=base, **recipe):
        recipe = {"stages": {"fine": {"rank": 9}}, **recipe}
        other = read_run(make_run(tmp_path / match[:9].replace("*", ""), {"base": made, "fine": made}, 0, recipe))
        with pytest.raises(HeftError, match=match):
            compare(arms_of([run, other]))

    refused("150 questions are in both, 50 in the first only, 0 in the second only", made=base[:150])
    prompted = records(answers(0.3, 0), prompt="1")
    refused("do not pair: 200 of 200 questions were shown to the model with another prompt", made=prompted)
    refused("another right answer", records(answers(0.3, 0), gold=1))
    refused("belong to another text", records(answers(0.3, 0), groups=range(N)))
    refused("task.name is boolq in the one and piqa in the other", task={"name": "piqa"})
    refused("normalize is none in the one and bytes", evaluation={"normalize": "bytes"})
    refused("1 ids occur more than once", made=[*base, base[0]])


def test_a_reference_must_be_an_arm(arm):
    with pytest.raises(HeftError, match="there is no arm 'c' to compare with; there are a"):
        compare(arms_of(arm("a", 0.5)), reference="c")


def test_two_arms_of_one_name_are_refused(arm):
    (first,) = arms_of(arm("a", 0.5))
    with pytest.raises(HeftError, match="two arms have the same name; got a, a"):
        compare([first, first])
