"""The arithmetic of comparisons: cases worked by hand, scipy and statsmodels on random records, a small simulation."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, t
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from heft.compare import statistics
from heft.compare.statistics import (
    accuracy_interval,
    cluster_covariance,
    estimates,
    group_totals,
    holm,
    spread_of,
)
from heft.results.proportions import mcnemar

ALONE = np.arange(300)


def random_differences(seeds, n, seed=0):
    random = np.random.default_rng(seed)
    return random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=(seeds, n))


def decided(won, lost, n):
    """One run's differences with so many won and lost."""
    return np.array([[1.0] * won + [-1.0] * lost + [0.0] * (n - won - lost)])


def one(values, groups=None):
    return estimates([[values]], np.arange(values.shape[1]) if groups is None else groups)[0]


@pytest.mark.parametrize("seed", range(3))
def test_holm_equals_statsmodels(seed):
    p_values = [*np.random.default_rng(seed).uniform(0, 0.3, 7), 1.0]
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-12)


def test_holm_of_a_case_worked_by_hand_counts_what_is_undefined():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, None, 0.04]) == [pytest.approx(0.03), None, pytest.approx(0.08)]
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_the_covariance_over_texts_is_the_sandwich_of_statsmodels():
    random = np.random.default_rng(0)
    groups = np.unique(random.integers(0, 40, 200), return_inverse=True)[1]
    values = random.normal(size=(1, 200)) + random.normal(size=groups.max() + 1)[groups]
    found = cluster_covariance(group_totals(values, groups), np.bincount(groups))[0, 0]
    # statsmodels' correction is G/(G−1) · (n−1)/(n−k), with k = 1 here
    fitted = OLS(values[0], np.ones(200)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert found == pytest.approx(fitted.bse[0] ** 2, rel=1e-12)


def test_the_covariance_of_a_case_worked_by_hand():
    # two texts of two questions, sums 2 and 0, mean 1/2: residuals 1 and −1; 2/1 · (1 + 1) / 4² = 1/4
    assert cluster_covariance(np.array([[2.0, 0.0]]), np.array([2.0, 2.0]))[0, 0] == pytest.approx(0.25)


def test_the_seed_part_of_a_case_worked_by_hand():
    # two seeds whose mean differences are 1/2 and 0 on four questions
    values = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0]])
    groups = np.arange(4)
    spread = spread_of([values], [group_totals(values, groups)], np.ones(4))
    # residuals (1/2, 1/2, −1/2, −1/2) and (1, −1, 0, 0): variances 4/3 · 1/16 and 4/3 · 2/16, covariance 0
    assert spread.questions == pytest.approx(4 / 3 * 3 / 16 / 4)
    assert spread.shared == pytest.approx(0, abs=1e-15)
    assert spread.seeds == ((pytest.approx(0.125 / 2), 1),)
    assert spread.variance == pytest.approx(0.0625)
    assert spread.quantile(0.975) == pytest.approx(t.ppf(0.975, 1))


def test_what_seeds_share_is_the_mean_covariance_of_their_pairs():
    values = random_differences(3, 50) + random_differences(1, 50, 1)
    spread = spread_of([values], [group_totals(values, np.arange(50))], np.ones(50))
    covariance = np.cov(values) / 50
    pairs = [covariance[0, 1], covariance[0, 2], covariance[1, 2]]
    assert min(pairs) > 0
    assert spread.shared == pytest.approx(sum(pairs) / 3)


def test_seeds_that_agree_on_every_question_add_nothing_to_the_spread():
    row = random_differences(1, 300)
    single, threefold = one(row), one(np.repeat(row, 3, axis=0))
    assert threefold.standard_error == pytest.approx(single.standard_error)
    assert threefold.interval == pytest.approx(single.interval, abs=0.004)
    assert threefold.seed_sd == 0.0
    assert single.seed_sd is None


def test_seeds_that_agree_by_chance_do_not_narrow_the_interval_below_these_runs():
    values = np.zeros((2, 100))
    values[:, :3] = 1
    values[0, 3] = values[1, 4] = 1  # both seeds won four questions, so their means are equal
    found = one(values)
    low, high = found.interval
    assert low < 0 < high
    assert found.p_value == pytest.approx(2 / 2**5, abs=0.01)  # all five signs alike
    assert found.standard_error == found.question_se


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_standard_error_is_never_below_that_of_these_very_runs(seeds):
    for seed in range(40):
        found = one(random_differences(seeds, 60, seed))
        assert found.standard_error >= found.question_se - 1e-12
        assert found.interval[0] <= found.difference <= found.interval[1]


def test_the_interval_of_single_questions_is_near_that_of_scipy():
    row = random_differences(1, 300)
    found = one(row)
    expected = bootstrap((row[0],), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(3))
    interval = expected.confidence_interval
    # two of 300 questions are added, and the draws are others: half a hundredth
    assert found.interval == pytest.approx((interval.low, interval.high), abs=0.005)


def test_the_interval_of_few_questions_is_as_wide_as_their_variance_without_bias():
    row = np.random.default_rng(0).normal(0.2, 0.3, 10)
    size = (row**2).sum() / np.abs(row).sum()
    padded = np.array([*row, size, -size])
    means = np.random.default_rng(3).choice(padded, (100_000, 12)).mean(1)  # their variance is of n, not of n − 1
    low, high = padded.mean() + (np.percentile(means, [2.5, 97.5]) - padded.mean()) * (12 / 11) ** 0.5
    assert one(row[None]).interval == pytest.approx((low, high), abs=0.02 * (high - low))


def test_an_interval_of_shares_ends_at_all_questions():
    values = np.ones((2, 8))
    values[1, 0] = 0
    assert one(values).interval[1] == 1.0
    assert one(-values).interval[0] == -1.0


def test_the_standard_error_of_single_questions_is_that_of_bonett_and_price():
    n, won, lost = 300, 6, 0
    p, q = (won + 1) / (n + 2), (lost + 1) / (n + 2)
    expected = ((p + q - (p - q) ** 2) / (n + 1)) ** 0.5  # heft divides by n + 1, for G/(G − 1)
    assert one(decided(won, lost, n)).standard_error == pytest.approx(expected, rel=1e-9)


CASES = [(4, 0), (5, 0), (7, 0), (9, 1), (20, 8), (20, 9), (8, 2), (40, 20), (35, 25)]


@pytest.mark.parametrize(("won", "lost"), CASES)
def test_the_p_value_of_single_runs_and_questions_is_that_of_the_exact_test(won, lost):
    found, exact = one(decided(won, lost, 300)), mcnemar(won, lost)
    assert found.p_value == pytest.approx(exact, abs=4 * (exact * (1 - exact) / statistics.DRAWS) ** 0.5 + 2e-4)
    assert (found.interval[0] > 0) == (exact < 0.05)


def test_texts_of_which_all_questions_agree_count_as_one_question_each():
    texts = random_differences(1, 100)
    tenfold = np.repeat(texts, 10, axis=1)
    found = one(tenfold, np.repeat(np.arange(100), 10))
    assert found.interval == pytest.approx(one(texts).interval)
    assert found.p_value == pytest.approx(one(texts).p_value, abs=1e-3)
    ignoring = one(tenfold)
    assert ignoring.interval[1] - ignoring.interval[0] < 0.4 * (found.interval[1] - found.interval[0])


def test_exchanging_the_arms_mirrors_the_interval():
    row = random_differences(3, 300)
    there, back = one(row), one(-row)
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]), abs=0.01)
    assert back.difference == -there.difference
    assert back.p_value == there.p_value


def test_two_samples_of_seeds_have_both_their_variances_and_share_the_questions():
    random = np.random.default_rng(0)
    first, second = (random.integers(0, 2, (seeds, 300)).astype(float) for seeds in (3, 4))
    found = estimates([[first, -second]], ALONE)[0]
    assert found.seed_sd is None
    assert one(first).seed_sd == pytest.approx(np.std(first.mean(1), ddof=1))
    spread = found.spread
    parts = [sample.mean(1).var(ddof=1) / len(sample) * (300 / 302) ** 2 for sample in (first, second)]
    assert [part for part, _ in spread.seeds] == pytest.approx(parts)
    assert [freedom for _, freedom in spread.seeds] == [2, 3]
    alone = estimates([[first, -second[:1]]], ALONE)[0].spread
    assert alone.seeds == ()
    assert alone.variance == alone.questions


@pytest.mark.parametrize(
    ("questions", "comparisons", "known"),
    [(3, 1, False), (5, 1, False), (6, 1, True), (7, 3, True), (7, 4, False), (8, 6, True), (8, 7, False)],
)
def test_too_few_questions_for_any_difference_to_be_shown(questions, comparisons, known):
    # all won has p 2 / 2ⁿ: 6 questions are the fewest with p below 0.05, 8 below 0.05 / 4
    found = one(np.array([[1.0, 0.0] * (questions // 2) + [0.0] * (questions % 2)]))
    assert (found.smallest_difference(comparisons) is not None) == known


def test_more_than_all_questions_cannot_be_won():
    assert one(np.array([[1.0] * 20, [0.0] * 20])).smallest_difference(1) is None


def test_the_smallest_difference_has_80_percent_power():
    found = one(random_differences(1, 300))
    needed = (norm.ppf(1 - 0.05 / 3 / 2) + norm.ppf(0.8)) * found.standard_error
    assert found.smallest_difference(3) == pytest.approx(needed)
    several = one(random_differences(3, 300))
    assert several.smallest_difference(1) > (norm.ppf(0.975) + norm.ppf(0.8)) * several.standard_error


@pytest.mark.parametrize(
    ("values", "groups"), [(np.zeros((3, 20)), np.arange(20)), (random_differences(2, 20), [0] * 20)]
)
def test_without_a_difference_or_a_second_text_nothing_is_claimed(values, groups):
    found = one(values, np.array(groups))
    assert (found.interval, found.standard_error, found.p_value, found.question_se) == (None, None, None, None)
    assert found.smallest_difference(1) is None


@pytest.mark.parametrize(("right", "n"), [(0, 20), (7, 20), (20, 20), (200, 300)])
def test_the_accuracy_of_a_single_run_on_single_questions_has_wilsons_interval(right, n):
    found = accuracy_interval(decided(right, 0, n), np.arange(n))
    expected = proportion_confint(right, n, method="wilson")
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_accuracy_interval_counts_texts_where_their_questions_agree():
    texts = (random_differences(1, 100) > 0).astype(float)
    found = accuracy_interval(np.repeat(texts, 10, axis=1), np.repeat(np.arange(100), 10))
    assert found == pytest.approx(proportion_confint(int(texts.sum()), 100, method="wilson"), abs=0.001)
    assert accuracy_interval(np.ones((3, 100)), np.repeat(np.arange(10), 10)) == pytest.approx(
        proportion_confint(10, 10, method="wilson"), abs=1e-9
    )


def coverage_script():
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("seeds", "seed_variance"), [(1, 0.02), (3, 0.0), (3, 0.3), (5, 0.02)])
def test_intervals_hold_the_truth_95_times_in_100(monkeypatch, seeds, seed_variance):
    monkeypatch.setattr(statistics, "DRAWS", 2000)
    script = coverage_script()
    setting = script.Setting(script.sizes_of(60, 3.0), seeds, 0.3, 0.1, 0.3, seed_variance)
    difference, accuracy = script.coverage(setting, repeats=400)
    # 93 to 97 %, and twice the standard error of 400 repeats (1.1 points) around it
    assert 0.908 < difference < 0.992
    assert 0.908 < accuracy < 0.992
