"""Memory over a long run, and over many runs in one process, must be flat.

python torture/soak.py [--steps N] [--runs M]: N optimiser steps with a checkpoint every 20, then M whole runs one after
the other. Of each, resident memory at 100 moments; a line through the second half of them must not rise by more than
MOST_GROWTH over that half. Exit status 1 if it does. (Linux: memory is read from /proc.)
"""

import argparse
import ctypes
import gc
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ends import RECIPES, START, run, write

from heft.recipe.files import load_recipe
from heft.run.train import train
from heft.runtime.reporter import Reporter

MOST_GROWTH = 0.02
LONG = (
    START.replace("every_steps: 1", "every_steps: 20")
    + """
  coarse: {method: lora, rank: 2, dropout: 0.1, steps: STEPS, batch_size: 4, holdout: 0.1, evaluate_every: 50}
  fine: {method: reft, rank: 2, positions: l3, steps: STEPS, batch_size: 4}
"""
)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watch(Reporter):
    """Takes the memory at 100 moments of each stage."""

    def __init__(self):
        self.bytes: dict[str, list[int]] = {}

    def step(self, what: str, done: int, total: int) -> None:
        if what in ("coarse", "fine") and done % max(1, total // 100) == 0:
            self.bytes.setdefault(what, []).append(resident_bytes())


def growth(values: list[int]) -> float:
    """How far a line through the second half of the values rises over that half, as a share of their mean."""
    half = np.array(values[len(values) // 2 :], dtype=float)
    return float(np.polyfit(np.arange(len(half)), half, 1)[0] * (len(half) - 1) / half.mean())


def main() -> None:
    """Soak and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=40)
    arguments = parser.parse_args()
    watch, rows = Watch(), []
    with tempfile.TemporaryDirectory(prefix="heft-torture-") as name:
        folder, start = Path(name), time.monotonic()
        train(
            load_recipe(write(folder, LONG.replace("STEPS", str(arguments.steps))), output=str(folder / "long")), watch
        )
        rows += [(f"{arguments.steps:,} steps of {what}", values) for what, values in watch.bytes.items()]
        recipe, after = write(folder, RECIPES["coarse, then fine"]), []
        for number in range(arguments.runs):
            run(recipe, folder / f"run-{number}")
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            after.append(resident_bytes())
        rows.append((f"{arguments.runs} runs", after))
        seconds = time.monotonic() - start
    print("| over | memory at the middle | at the end | growth of the second half |\n|---|---|---|---|")
    for what, values in rows:
        middle, end = values[len(values) // 2] / 1e6, values[-1] / 1e6
        print(f"| {what} | {middle:.1f} MB | {end:.1f} MB | {growth(values):+.2%} |")
    print(f"\n{seconds:.0f} seconds")
    sys.exit(any(growth(values) > MOST_GROWTH for _, values in rows))


if __name__ == "__main__":
    main()
