"""Runs are killed with SIGKILL at random moments, again and again, and must end as if they had not been.

python torture/kill.py [--kills N] [--seed S]: N kills of each recipe (ends.RECIPES). Exit status 1 on any fault.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from ends import RECIPES, Wanted, in_a_child, results, run


def torture(name: str, kills: int, moments: random.Random) -> tuple[int, int, list[str]]:
    """Kill runs of a recipe that often; kills made, runs finished after them, and faults."""
    wanted, done, finished, faults = Wanted(RECIPES[name]), 0, 0, []
    with tempfile.TemporaryDirectory(prefix="heft-torture-") as folder:
        log = Path(folder) / "log"
        start = time.monotonic()
        os.waitpid(in_a_child(lambda: run(wanted.recipe, Path(folder) / "timed"), log), 0)
        duration = time.monotonic() - start
        while done < kills:
            directory = Path(folder) / f"run-{finished}"
            child = in_a_child(lambda: run(wanted.recipe, directory), log)  # noqa: B023 - the child has its own copy
            time.sleep(moments.uniform(0.01, 0.7) * duration)
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            done += os.WIFSIGNALED(status)
            if not os.WIFSIGNALED(status):
                if os.waitstatus_to_exitcode(status):
                    faults.append(f"{name}: after {done} kills: {log.read_text()}")
                elif results(directory) != wanted.results:
                    faults.append(f"{name}: another result after {done} kills")
                finished += 1
        run(wanted.recipe, directory)
        if results(directory) != wanted.results:
            faults.append(f"{name}: another result after {done} kills")
    return done, finished + 1, faults


def main() -> None:
    """Torture every recipe and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each recipe")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    every_fault = []
    print("| recipe | kills | runs finished after kills | faults | seconds |\n|---|---|---|---|---|")
    for name in RECIPES:
        start = time.monotonic()
        done, finished, faults = torture(name, arguments.kills, random.Random(arguments.seed))
        print(f"| {name} | {done} | {finished} | {len(faults)} | {time.monotonic() - start:.0f} |", flush=True)
        every_fault += faults
    print("\n".join(every_fault), file=sys.stderr)
    sys.exit(bool(every_fault))


if __name__ == "__main__":
    main()
