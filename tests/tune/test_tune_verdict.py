"""The arms against each other: ties are ties, and the cheapest of them wins."""

from dataclasses import replace

import numpy as np
import pytest

from heft.tune.chosen_by import LOSS
from heft.tune.repeats import mean_of
from heft.tune.trial import Outcome
from heft.tune.verdict import loss_difference, results_of, verdict_in_words, winner_of

ROWS = 200
TOKENS = [2] * ROWS
GROUPS = list(range(ROWS))


def outcome(key, losses, steps=20, seed=None):
    stages = {"coarse": {"method": "lora", "rank": 8, "steps": steps, "seed": seed}}
    loss = float(np.sum(losses) / sum(TOKENS[: len(losses)]))
    return Outcome(key, "lora", stages, {}, loss, None, row_losses=list(map(float, losses)), steps=steps)


@pytest.fixture
def arms():
    """One arm is best by far more than chance, `alike` differs from it by noise, `worse` by a lot."""
    random = np.random.default_rng(0)
    best = random.gamma(2.0, 0.5, ROWS)
    noise = random.normal(0, 0.05, ROWS)
    alike = best + noise - noise.mean() + 0.001
    return {"best": outcome("b", best), "alike": outcome("a", alike), "worse": outcome("w", best + 0.5 + noise)}


def results(arms, **costs):
    return results_of(arms, costs, TOKENS, GROUPS, {arm: [best] for arm, best in arms.items()})


def test_the_cheaper_of_two_that_tie_wins_and_that_is_said(arms):
    found = results(arms, best=10.0, alike=3.0, worse=1.0)
    assert [each.arm for each in found] == ["best", "alike", "worse"]
    assert [each.ties for each in found] == [True, True, False]
    assert winner_of(found).arm == "alike"
    words = verdict_in_words(found, "seconds", LOSS)
    assert "best and alike tie" in words
    assert "The cheapest of them in seconds of training, alike, is taken." in words


def test_without_a_tie_the_best_wins_whatever_it_costs(arms):
    del arms["alike"]
    found = results(arms, best=10.0, worse=1.0)
    assert winner_of(found).arm == "best"
    assert "no other arm ties" in verdict_in_words(found, "flops", LOSS)


def test_a_difference_is_that_of_the_losses_and_its_interval_is_a_paired_one(arms):
    worse, _ = loss_difference(arms["worse"].row_losses, arms["best"].row_losses, TOKENS, GROUPS)
    assert worse == pytest.approx(arms["worse"].loss - arms["best"].loss)
    difference, (low, high) = loss_difference(arms["alike"].row_losses, arms["best"].row_losses, TOKENS, GROUPS)
    assert difference == pytest.approx(arms["alike"].loss - arms["best"].loss)
    # of 200 differences with a standard deviation of 0.05 nats a row, 0.025 a token
    assert high - low == pytest.approx(2 * 1.96 * 0.025 / np.sqrt(ROWS), rel=0.1)


def test_a_row_counts_in_a_difference_by_its_tokens_and_rows_of_one_arm_alone_do_not():
    one, other, tokens = [6.0, 1.0], [3.0, 3.0, 9.0], [3, 1, 50]
    assert loss_difference(one, other, tokens, [0, 1, 2])[0] == pytest.approx((3.0 - 2.0) / 4)
    bests = {"one": outcome("one", np.array(one)), "other": outcome("other", np.array(other))}
    first, second = results_of(bests, {"one": 1.0, "other": 1.0}, tokens, [0, 1, 2], {"one": [], "other": []})
    assert (first.arm, first.loss) == ("other", pytest.approx(6.0 / 4))
    assert (second.arm, second.loss, second.difference) == ("one", pytest.approx(7.0 / 4), pytest.approx(0.25))


def test_arms_are_compared_on_the_rows_that_all_of_them_have(arms):
    half = ROWS // 2
    first = arms["best"].row_losses[:half]
    again = replace(outcome("r", np.zeros(half), seed=100), accuracy=1.0)
    repeated = mean_of([replace(outcome("b", first), accuracy=0.5), again])
    once = outcome("o", np.array(first) - 0.1)
    assert repeated.loss < once.loss  # but on other rows
    found = {each.arm: each for each in results({"repeated": repeated, "once": once}, repeated=1.0, once=1.0)}
    assert list(found) == ["once", "repeated"]
    assert found["repeated"].best is repeated
    assert found["repeated"].loss == pytest.approx(np.sum(first) / sum(TOKENS[:half]))
    assert found["repeated"].difference == pytest.approx(0.1 / TOKENS[0])
    assert (found["repeated"].accuracy, repeated.accuracy) == (0.5, 0.75)
    both = results(
        {"repeated": repeated, "other": mean_of([once, outcome("q", np.ones(half), seed=100)])}, repeated=1.0, other=1.0
    )
    assert [each.arm for each in both] == ["repeated", "other"]
    assert [each.loss for each in both] == pytest.approx([each.best.loss for each in both])
    assert both[1].difference == pytest.approx((-0.1 + 1.0) / 2 / TOKENS[0])


def test_rows_of_repeats_may_be_more_or_fewer_than_those_of_the_trial():
    """As where rows of one text stay together (heft.data.validation)."""
    sizes, levels = (20, 20, 60), (1.0, 2.0, 3.0)
    trainings = [
        replace(outcome(str(n), np.full(size, level), seed=100 * n or None), accuracy=level / 4)
        for n, (size, level) in enumerate(zip(sizes, levels, strict=True))
    ]
    often, twice = mean_of(trainings), mean_of(trainings[:2])
    found = {each.arm: each for each in results({"often": often, "twice": twice}, often=1.0, twice=1.0)}
    for result in found.values():  # both are compared on the rows of the first two, of which they have the same losses
        assert (result.loss, result.accuracy) == pytest.approx(((1.0 + 2.0) / 2 / TOKENS[0], 0.375))
        assert result.difference == 0.0


def test_the_arm_of_the_lowest_loss_is_the_one_that_the_others_are_compared_with():
    """Also where a mean over trainings, which have unlike many rows, would order them otherwise."""

    def repeated(*levels):
        return mean_of(
            [outcome(str(n), np.full((20, 60)[n], level), seed=100 * n or None) for n, level in enumerate(levels)]
        )

    arms = {"one": repeated(1.0, 3.0), "other": repeated(1.6, 2.6)}
    assert arms["one"].loss < arms["other"].loss
    first, second = results(arms, one=1.0, other=1.0)
    assert (first.arm, first.difference, second.arm) == ("other", 0.0, "one")
    assert first.loss == pytest.approx((20 * 1.6 + 60 * 2.6) / 80 / TOKENS[0])
    assert second.difference == pytest.approx(second.loss - first.loss) == pytest.approx((2.5 - 2.35) / TOKENS[0])


def test_of_two_with_the_lowest_loss_the_others_are_compared_with_the_more_accurate_one(arms):
    rows = np.round(8 * np.asarray(arms["best"].row_losses)) / 8  # whose sum is exact in any order
    one = replace(outcome("1", rows[::-1]), accuracy=0.5)
    other, third = replace(outcome("2", rows), accuracy=0.75), outcome("3", rows + 0.0625)
    found = {each.arm: each for each in results({"one": one, "other": other, "third": third}, one=1, other=1, third=1)}
    assert [found[arm].accuracy for arm in ("one", "other")] == [0.5, 0.75]
    assert [found[arm].difference for arm in ("one", "other")] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert found["third"].difference == pytest.approx(0.0625 / TOKENS[0])
    assert found["one"].ties
    assert not found["third"].ties  # as it would with the first one, from which it differs by row


def test_rows_of_one_text_alone_give_no_interval():
    assert loss_difference([3.0, 2.0], [1.0, 1.0], [1, 1], [0, 0]) == (pytest.approx(1.5), None)


def test_differences_beyond_one_nat_have_their_interval():
    one, other = np.linspace(10, 14, ROWS), np.linspace(1, 2, ROWS)
    difference, (low, high) = loss_difference(one, other, TOKENS, GROUPS)
    assert difference == pytest.approx((one - other).mean() / 2)
    assert low < difference < high


def test_rows_about_one_text_count_as_one():
    random = np.random.default_rng(1)
    shift = np.repeat(random.normal(0, 1, ROWS // 20), 20)
    one = np.full(ROWS, 5.0)
    by_row = loss_difference(one + shift, one, TOKENS, GROUPS)[1]
    by_text = loss_difference(one + shift, one, TOKENS, [n // 20 for n in range(ROWS)])[1]
    assert by_text[1] - by_text[0] > 2 * (by_row[1] - by_row[0])


def test_arms_with_equal_rows_tie(arms):
    found = results({"one": arms["best"], "two": arms["best"]}, one=2.0, two=1.0)
    assert all(each.ties for each in found)
    assert winner_of(found).arm == "two"


@pytest.mark.parametrize(
    ("more", "steps", "still_falls"),
    [(0.5, 10, True), (0.0, 10, False), (0.5, 40, False), (-0.5, 10, False)],
    ids=["a shorter one is worse", "a shorter one is as good", "only a longer one is worse", "a shorter one is better"],
)
def test_a_loss_that_still_fell_with_length_is_said(arms, more, steps, still_falls):
    best = arms["best"]
    other = outcome("o", np.asarray(best.row_losses) + more + np.random.default_rng(2).normal(0, 0.05, ROWS), steps)
    (found,) = results_of({"lora": best}, {"lora": 1.0}, TOKENS, GROUPS, {"lora": [other, best]})
    assert found.still_falls == still_falls
    assert ("With more steps lora still became better" in verdict_in_words([found], "seconds", LOSS)) == still_falls


def test_the_nearest_shorter_trial_says_it_unless_it_diverged_and_no_repeat_does(arms):
    best, rows = arms["best"], np.asarray(arms["best"].row_losses)

    def still_falls(*shorter):
        (found,) = results_of({"lora": best}, {"lora": 1.0}, TOKENS, GROUPS, {"lora": [*shorter, best]})
        return found.still_falls

    worse, same = outcome("w", rows + 0.5, steps=5), outcome("s", rows, steps=10)
    assert still_falls(worse)
    assert not still_falls(worse, same)
    assert not still_falls(worse, replace(same, loss=None, row_losses=[]))
    assert not still_falls(outcome("r", rows + 0.5, steps=5, seed=100))  # on other rows


def test_a_trial_of_another_recipe_says_nothing_of_length(arms):
    best, other = arms["best"], outcome("o", np.asarray(arms["best"].row_losses) + 1.0, 10)
    other.stages["coarse"]["rank"] = 16
    (found,) = results_of({"lora": best}, {"lora": 1.0}, TOKENS, GROUPS, {"lora": [other, best]})
    assert not found.still_falls
