"""The arithmetic of comparisons: intervals over questions that share texts and over seeds, exact tests, corrections.

Everything here works on arrays of answers; formulas and sources stand in docs/statistics.md. Shapes: S seeds,
n questions, G groups of questions that share a text, P comparisons, B bootstrap draws.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from heft.results.proportions import Z, score_interval

DRAWS = 10_000
ALPHA = 0.05
POWER = 0.8
_RANDOM_SEED = 20_260_101
_DRAWS_AT_ONCE = 250


@dataclass(frozen=True)
class Spread:
    """How far a mean over questions and seeds may lie from the truth, and why.

    Attributes:
        estimate: the mean.
        questions: variance of the estimate for these very runs, from the choice of questions.
        shared: the part of `questions` that all seeds have in common, never below 0.
        seeds: (variance of the mean over seeds, S − 1) of each independent sample of seeds; none with one seed.
    """

    estimate: float
    questions: float
    shared: float
    seeds: tuple[tuple[float, int], ...]

    @property
    def variance(self) -> float:
        """Of the estimate, from questions and, where there are several, from seeds; never below `questions`."""
        return max(self.shared + self.seed_part, self.questions) if self.seeds else self.questions

    @property
    def seed_part(self) -> float:
        """What of the variance is Student's."""
        return sum(part for part, _ in self.seeds)

    @property
    def question_part(self) -> float:
        """What of the variance is normal: what seeds share, and what they would have by chance beyond `seed_part`."""
        return self.variance - self.seed_part

    def quantile(self, p: float) -> float:
        """Quantile of the error in standard errors: normal and Student's t, weighted as by Cochran and Cox."""
        weighted = self.question_part * ndtri(p) + sum(part * stdtrit(freedom, p) for part, freedom in self.seeds)
        return float(weighted / self.variance)


@dataclass(frozen=True)
class Estimate:
    """A difference, with what is known of its error. What is undefined is None.

    Attributes:
        difference: the mean.
        interval: 95 %.
        standard_error, question_se: from questions and seeds, and from questions alone.
        seed_sd: standard deviation over seeds; None with one seed or two samples of seeds.
        p_value: two-sided, of no difference: how often a draw in which either arm could have had each group's answers
            lies as far from 0.
        spread: of the difference.
        groups: of questions.
    """

    difference: float
    interval: tuple[float, float] | None
    standard_error: float | None
    question_se: float | None
    seed_sd: float | None
    p_value: float | None
    spread: Spread
    groups: int

    def smallest_difference(self, comparisons: int) -> float | None:
        """The true difference that has 80 % power at level 0.05 / comparisons; None where there is none.

        So it is without a standard error, where more than all questions would have to be won, and with one seed where
        even all groups won are too few for such a p-value.
        """
        level = ALPHA / comparisons
        if self.standard_error is None or (not self.spread.seeds and 2 * 0.5**self.groups > level):
            return None
        needed = (self.spread.quantile(1 - level / 2) + float(ndtri(POWER))) * self.standard_error
        return needed if needed <= 1 else None


def spread_of(samples: Sequence[np.ndarray], totals: Sequence[np.ndarray], sizes: np.ndarray) -> Spread:
    """The spread of the sum of the samples' means.

    Args:
        samples: values, S×n each, of independent samples of seeds (to subtract a sample, give it negated).
        totals: their sums in each group, S×G each.
        sizes: questions in each group.
    """
    rows = np.concatenate(totals)
    means = rows.sum(1) / sizes.sum()
    weights = np.concatenate([np.full(len(sample), 1 / len(sample)) for sample in samples])
    covariance = cluster_covariance(rows, sizes)
    questions = float(weights @ covariance @ weights)
    own, seeds, start = 0.0, [], 0
    for sample in samples:
        end, count = start + len(sample), len(sample)
        if count > 1:
            block = covariance[start:end, start:end]
            off_diagonal = (block.sum() - np.trace(block)) / (count * (count - 1))
            own += float(np.trace(block) / count - off_diagonal) / count
            seeds.append((float(means[start:end].var(ddof=1)) / count, count - 1))
        start = end
    several = len(seeds) == len(samples)
    return Spread(float(weights @ means), questions, max(questions - own, 0.0), tuple(seeds) if several else ())


def cluster_covariance(totals: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Covariance (R×R) of R means over questions that are drawn in groups.

    Args:
        totals: sums of R quantities in each group, R×G; G is at least 2.
        sizes: questions in each group.
    """
    groups, n = len(sizes), sizes.sum()
    residuals = totals - totals.sum(1, keepdims=True) / n * sizes
    return groups / (groups - 1) * (residuals @ residuals.T) / n**2


def group_totals(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums (S×G) of S rows of n values in each group; `groups` numbers each question's, from 0 without a gap."""
    return np.stack([np.bincount(groups, weights=row) for row in values])


def estimates(comparisons: Sequence[Sequence[np.ndarray]], groups: np.ndarray) -> list[Estimate]:
    """Estimate differences on the same questions; the resampled groups are the same in all of them.

    Args:
        comparisons: for each, its samples of seeds, S×n: one of differences where runs are paired by seed, else the
            first's answers and the second's negated.
        groups: each question's group, from 0 without a gap.
    """
    sizes = np.bincount(groups).astype(float)
    if len(sizes) < 2:
        return [_undefined(samples, len(sizes)) for samples in comparisons]
    padded_sizes = np.append(sizes, [sizes.mean()] * 2)
    padded = [_padded([group_totals(sample, groups) for sample in samples]) for samples in comparisons]
    spreads = [spread_of(s, p, padded_sizes) for s, p in zip(comparisons, padded, strict=True)]
    means = np.stack([sum(total.mean(0) for total in totals) for totals in padded])
    deviations, flipped = _bootstrap(means, padded_sizes), _flipped(means[:, : len(sizes)], sizes)
    found = zip(comparisons, spreads, deviations, flipped, strict=True)
    return [_estimate(*pieces, len(sizes)) for pieces in found]


def _padded(totals: list[np.ndarray]) -> list[np.ndarray]:
    """Two groups more, one won and one lost, of the size that a group's total typically has."""
    mean = sum(total.mean(0) for total in totals)
    size = float((mean**2).sum() / np.abs(mean).sum()) if mean.any() else 0.0
    first, *others = totals
    extra = np.tile([size, -size], (len(first), 1))
    return [np.hstack([first, extra]), *(np.hstack([other, np.zeros((len(other), 2))]) for other in others)]


def _bootstrap(totals: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Deviations (P×B) of resampled ratio estimates from the observed ones: groups are drawn with replacement."""
    random = np.random.default_rng(_RANDOM_SEED)
    groups = len(sizes)
    columns = np.vstack([totals, sizes]).T
    found = np.empty((len(totals), DRAWS))
    for start in range(0, DRAWS, _DRAWS_AT_ONCE):
        drawn = random.integers(groups, size=(_DRAWS_AT_ONCE, groups)) + groups * np.arange(_DRAWS_AT_ONCE)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=_DRAWS_AT_ONCE * groups).reshape(_DRAWS_AT_ONCE, groups)
        sums = counts.astype(float) @ columns
        found[:, start : start + _DRAWS_AT_ONCE] = (sums[:, :-1] / sums[:, -1:]).T
    return (found - (totals.sum(1) / sizes.sum())[:, None]) * np.sqrt(groups / (groups - 1))


def _flipped(totals: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Means (P×B) in a world without a difference, where either arm could as well have had each group's answers."""
    random = np.random.default_rng(_RANDOM_SEED + 1)
    found = np.empty((len(totals), DRAWS))
    for start in range(0, DRAWS, _DRAWS_AT_ONCE):
        signs = random.integers(2, size=(_DRAWS_AT_ONCE, len(sizes))) * 2.0 - 1
        found[:, start : start + _DRAWS_AT_ONCE] = (signs @ totals.T).T / sizes.sum()
    return found


def _estimate(
    samples: Sequence[np.ndarray], spread: Spread, deviations: np.ndarray, flipped: np.ndarray, groups: int
) -> Estimate:
    if spread.variance <= 1e-18:
        return _undefined(samples, groups)
    error, difference = float(np.sqrt(spread.variance)), _difference(samples)

    def tails(draw: float) -> float:  # rises with the draw, so few draws need it
        return error * (spread.quantile(ndtr(min(max(draw, -8.0), 8.0))) if spread.seeds else float(draw))

    draws = _with_seeds(deviations, spread) / error
    low, high = (spread.estimate + tails(x) for x in np.percentile(draws, [100 * ALPHA / 2, 100 * (1 - ALPHA / 2)]))
    null = np.sort(np.abs(_with_seeds(np.abs(flipped), spread))) / error  # a mean's sign is as likely to be either
    as_far = len(null) - bisect_left(null, abs(difference) - 1e-12, key=tails)
    return Estimate(
        difference=difference,
        interval=(max(-1.0, low), min(1.0, high)),
        standard_error=error,
        question_se=float(np.sqrt(spread.questions)),
        seed_sd=_seed_sd(samples),
        p_value=(as_far + 1) / (len(null) + 1),
        spread=spread,
        groups=groups,
    )


def _with_seeds(draws: np.ndarray, spread: Spread) -> np.ndarray:
    """Draws of questions, scaled to the question part, with a normal seed part added; as they are with one seed."""
    if not spread.seeds:
        return draws
    random = np.random.default_rng(_RANDOM_SEED + 2)
    scaled = draws * (np.sqrt(spread.question_part / spread.questions) if spread.questions > 0 else 0.0)
    return scaled + np.sqrt(spread.seed_part) * random.standard_normal(len(draws))


def _undefined(samples: Sequence[np.ndarray], groups: int) -> Estimate:
    difference = _difference(samples)
    return Estimate(difference, None, None, None, _seed_sd(samples), None, Spread(difference, 0.0, 0.0, ()), groups)


def _difference(samples: Sequence[np.ndarray]) -> float:
    return float(sum(sample.mean() for sample in samples))


def _seed_sd(samples: Sequence[np.ndarray]) -> float | None:
    return float(samples[0].mean(1).std(ddof=1)) if len(samples) == 1 and len(samples[0]) > 1 else None


def accuracy_interval(answers: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Wilson's 95 % interval with the number of independent questions that has the same variance.

    Args:
        answers: right (1) or not (0), S×n.
        groups: each question's group, from 0 without a gap.
    """
    sizes = np.bincount(groups).astype(float)
    share = float(answers.mean())
    z, count = Z, float(len(sizes))
    if 0 < share < 1 and len(sizes) > 1:
        spread = spread_of([answers], [group_totals(answers, groups)], sizes)
        if spread.variance > 1e-18:
            count = min(share * (1 - share) / spread.variance + 1, float(answers.size))
            z = spread.quantile(1 - ALPHA / 2)
    return score_interval(share, count, z)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values; what is None stays so, but counts as a comparison."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = largest
    return adjusted
