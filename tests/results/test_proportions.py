"""Intervals of shares and tests of them, against scipy.stats and statsmodels."""

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from heft.results.proportions import mcnemar, wilson


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (2785, 3270), (3270, 3270)])
def test_wilsons_interval_is_scipys(right, n):
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_mcnemar_of_a_case_worked_by_hand():
    # 5 won, 1 lost: 2 (C(6,0) + C(6,1)) / 2⁶ = 14/64
    assert mcnemar(5, 1) == pytest.approx(14 / 64)
    assert mcnemar(0, 0) is None


RANDOM_PAIRS = np.random.default_rng(0).integers(0, 30, (24, 2)).tolist()


@pytest.mark.parametrize(("won", "lost"), [(1, 0), (4, 4), (3, 4), (900, 1100), (2000, 0), *RANDOM_PAIRS])
def test_mcnemar_is_that_of_scipy_and_statsmodels(won, lost):
    assert mcnemar(won, lost) == pytest.approx(binomtest(won, won + lost).pvalue, rel=1e-9)
    assert mcnemar(won, lost) == pytest.approx(statsmodels_mcnemar([[5, won], [lost, 6]], exact=True).pvalue, rel=1e-9)
