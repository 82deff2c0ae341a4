"""What two stages change besides accuracy: how probable the right choice is on the evaluation rows.

    python benchmarks/two_stages_losses.py STUDY …

Of each study of two_stages.py (OUT/CELL/study): for LoRA, ReFT, and LoRA then ReFT the mean −ln p of the right choice
among its choices, and the expected share of wrong answers (1 − p), with the differences to the single method that has
the less of each; 95 % intervals over questions and seeds as in `heft compare`. Not for data sets whose choices are
compared by byte (ARC-easy): records hold no probabilities of whole texts there.
"""

import math
import sys
from pathlib import Path

import numpy as np

from heft.compare.arms import Arm, read_study
from heft.compare.pairing import align
from heft.compare.statistics import estimates
from heft.results.records import Record

SINGLE, TWO = ("lora", "reft"), "lora-reft"
MOST = 30.0
"""Of −ln p; differences are divided by it for the intervals, which `heft compare` keeps between −1 and 1."""
FIGURES = {"−ln p": lambda p: -math.log(max(p, math.exp(-MOST))), "1 − p": lambda p: 1 - p}


def main() -> None:
    print("| cell | figure | LoRA | ReFT | LoRA, then ReFT | difference |\n|---|---|---|---|---|---|")
    for path in map(Path, sys.argv[1:]):
        arms = {arm.name: arm for arm in read_study(path)[0] if arm.name in (*SINGLE, TWO)}
        groups = align(list(arms.values())).groups  # in the order of the first run's records
        right = {name: chances(arm) for name, arm in arms.items()}
        for figure, of in FIGURES.items():
            values = {name: np.vectorize(of)(p_SN) for name, p_SN in right.items()}
            single = min(SINGLE, key=lambda name: values[name].mean())
            (found,) = estimates([[(values[TWO] - values[single]) / MOST]], groups)
            difference, low, high = (MOST * value for value in (found.difference, *found.interval))
            means = " | ".join(f"{values[name].mean():.3f}" for name in (*SINGLE, TWO))
            print(f"| {path.parent.name} | {figure} | {means} | {difference:+.3f} ({low:+.3f} to {high:+.3f}) |")


def chances(arm: Arm) -> np.ndarray:
    """p of the right choice, seeds by questions, in the order of the first run's records."""
    runs = [{record.id: chance(record) for record in run.after(arm.stage).records} for run in arm.runs]
    return np.array([[run[key] for key in runs[0]] for run in runs])


def chance(record: Record) -> float:
    """p of the right choice among all."""
    most = max(record.log_likelihoods)
    shares = [math.exp(value - most) for value in record.log_likelihoods]
    return shares[record.gold] / sum(shares)


if __name__ == "__main__":
    main()
