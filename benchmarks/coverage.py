"""How often the intervals of `heft compare` hold the truth, and its p-values alarm, where the truth is known.

    python benchmarks/coverage.py            # the table of docs/statistics.md, some minutes on one core

Each answer of an arm is right where the sum of normal terms is above 0: the text's ease and the question's, common to
both arms; the arm's own for each text and for each question; the seed's; and what is left for each seed and question.
The true accuracy of an arm is then Φ(mean / SD of the sum), and for given seeds the same with their terms as constants.
"""

import argparse
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.stats import norm

from heft.compare.statistics import accuracy_interval, estimates

MEANS = (0.55, 0.30)
TEXTS = {"30 × 8": (30, 8.0), "100 × 4": (100, 4.0), "400 × 1.2": (400, 1.2)}
SEED_VARIANCES = {"none": 0.0, "some": 0.02, "large": 0.3}
KINDS = {"by text": (0.4, 0.0, 0.3), "by question": (0.0, 0.5, 0.3), "by seed": (0.0, 0.0, 0.8)}
"""What arms differ by: variances of the arm's term for each text, for each question, and for each seed and question."""


@dataclass(frozen=True)
class Setting:
    """One line of the table; variances as above."""

    sizes: np.ndarray
    seeds: int
    text: float
    question: float
    rest: float
    seed: float
    means: tuple[float, float] = MEANS

    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Answers (2 arms × S × n) and the true accuracy of each arm: with one seed, of that seed."""
        groups, n = np.repeat(np.arange(len(self.sizes)), self.sizes), self.sizes.sum()
        ease = random.normal(0, 0.7, len(self.sizes))[groups] + random.normal(0, 0.7, n)
        seed_terms = random.normal(0, self.seed**0.5, (2, self.seeds, 1))
        own = random.normal(0, self.text**0.5, (2, 1, len(self.sizes)))[:, :, groups]
        own = own + random.normal(0, self.question**0.5, (2, 1, n))
        rest = random.normal(0, self.rest**0.5, (2, self.seeds, n))
        means = np.array(self.means)
        right = means[:, None, None] + ease + own + seed_terms + rest > 0
        variance = 2 * 0.7**2 + self.text + self.question + self.rest
        if self.seeds == 1:
            return right.astype(float), norm.cdf((means + seed_terms[:, 0, 0]) / variance**0.5)
        return right.astype(float), norm.cdf(means / (variance + self.seed) ** 0.5)


def coverage(setting: Setting, repeats: int, seed: int = 0) -> tuple[float, float]:
    """Shares of intervals that hold the truth: of the paired difference, and of the first arm's accuracy."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(setting.sizes)), setting.sizes)
    drawn = [setting.draw(random) for _ in range(repeats)]
    found = estimates([[right[0] - right[1]] for right, _ in drawn], groups)
    held, held_alone = 0, 0
    for (right, truth), estimate in zip(drawn, found, strict=True):
        low, high = estimate.interval or (np.inf, -np.inf)
        held += low <= truth[0] - truth[1] <= high
        low, high = accuracy_interval(right[0], groups)
        held_alone += low <= truth[0] <= high
    return held / repeats, held_alone / repeats


def false_alarms(setting: Setting, repeats: int, seed: int = 0) -> float:
    """Share of p-values of at most 0.05 between arms that are alike; with one seed, its own terms are left out."""
    alike = replace(setting, means=MEANS[:1] * 2, seed=0.0 if setting.seeds == 1 else setting.seed)
    random = np.random.default_rng(seed)
    drawn = (alike.draw(random)[0] for _ in range(repeats))
    found = estimates([[right[0] - right[1]] for right in drawn], np.repeat(np.arange(len(alike.sizes)), alike.sizes))
    return sum(estimate.p_value is not None and estimate.p_value <= 0.05 for estimate in found) / repeats


def sizes_of(texts: int, mean: float) -> np.ndarray:
    """Questions about each text: at least one, the rest Poisson."""
    return 1 + np.random.default_rng(1).poisson(mean - 1, texts)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000, help="data sets for each figure")
    repeats = parser.parse_args().repeats
    print(f"| texts × questions | seeds | seeds differ | {' | '.join(KINDS)} | accuracy alone | false alarms |")
    print("|---|---|---|" + "---|" * (len(KINDS) + 2))
    for (texts, size), seeds, (words, variance) in product(TEXTS.items(), (1, 2, 3, 5), SEED_VARIANCES.items()):
        if seeds == 1 and words != "some":
            continue
        settings = [Setting(sizes_of(*size), seeds, *kind, variance) for kind in KINDS.values()]
        held = [coverage(setting, repeats, seed=index) for index, setting in enumerate(settings)]
        alarms = [false_alarms(setting, repeats, seed=index) for index, setting in enumerate(settings)]
        differences = " | ".join(f"{100 * difference:.1f}" for difference, _ in held)
        alone = ", ".join(f"{100 * share:.1f}" for _, share in held)
        wrong = ", ".join(f"{100 * share:.1f}" for share in alarms)
        seed_words = "–" if seeds == 1 else words
        print(f"| {texts} | {seeds} | {seed_words} | {differences} | {alone} | {wrong} |", flush=True)


if __name__ == "__main__":
    main()
