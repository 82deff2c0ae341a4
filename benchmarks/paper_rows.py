"""The paper's three rows on BoolQ, on a model at hand, each arm tuned alike: HEFT for 3 epochs, LoRA and ReFT for 20.

    python benchmarks/paper_rows.py run --boolq DIR --out OUT [--rows 3000] [--workers N] [--seconds S]
    python benchmarks/paper_rows.py table OUT

Every arm has two rates to choose from, and takes the one whose validation loss is lower at the end of its whole
schedule (a tenth of the training rows, seed 0); that one is then trained with two more seeds. Nothing is chosen by the
evaluation split, which is all of BoolQ's validation rows. Beside the paper's rows, LoRA and HEFT whose LoRA acts on the
last 8 prompt tokens and what follows (`l8+`), so that what stands before is computed once. OUT/results.jsonl has a
line a run; runs that are there are not made again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

MODEL = "embedded:smollm2-135m-instruct"
BATCH = {"batch_size": 32, "holdout": 0.1}
LORA = {"method": "lora", "rank": 8, "alpha": 16, **BATCH}
REFT = {"method": "reft", "rank": 8, "positions": "l7", **BATCH}
RATES = {"lora": (3e-4, 1e-3), "reft": (1e-3, 3e-3)}
ARMS = {
    "lora_20": {"coarse": LORA | {"epochs": 20}},
    "reft_20": {"fine": REFT | {"epochs": 20}},
    "lora_l8_20": {"coarse": LORA | {"epochs": 20, "positions": "l8+"}},
    "heft": {"coarse": LORA | {"epochs": 1}, "fine": REFT | {"epochs": 2}},
    "heft_l8": {"coarse": LORA | {"epochs": 1, "positions": "l8+"}, "fine": REFT | {"epochs": 2}},
    "lora_3": {"coarse": LORA | {"epochs": 3}},
}
"""Longest first. Of arms with two stages both rates are the lower or both the higher, so that all have two trials."""
SEEDS = (0, 1, 2)
DRAWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run_ = commands.add_parser("run")
    run_.add_argument("--boolq", type=Path, required=True)
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--rows", type=int, default=3000)
    run_.add_argument("--workers", type=int, default=1)
    run_.add_argument("--seconds", type=float, default=float("inf"), help="start no run after so many")
    commands.add_parser("table").add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "table":
        print(table_of(options.out))
    else:
        run_all(options)


def run_all(options: argparse.Namespace) -> None:
    """Both trials of every arm, then the better one with the other seeds."""
    options.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()

    def one(run: tuple[str, int, int]) -> None:
        if run not in results_of(options.out) and time.monotonic() - begun < options.seconds:
            found = trained(run, options)
            with (options.out / "results.jsonl").open("a") as file:
                file.write(json.dumps(found) + "\n")

    def arm(name: str) -> None:
        for trial in (0, 1):
            one((name, trial, SEEDS[0]))
        best = chosen(name, results_of(options.out))
        for seed in SEEDS[1:] if best is not None else ():
            one((name, best, seed))

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(arm, ARMS))


def results_of(out: Path) -> dict[tuple[str, int, int], dict]:
    """Finished runs by arm, trial and seed."""
    path = out / "results.jsonl"
    lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return {(each["arm"], each["trial"], each["seed"]): each for each in lines if "error" not in each}


def chosen(arm: str, found: dict) -> int | None:
    """The trial of lower validation loss; none before both are there."""
    tried = [found.get((arm, trial, SEEDS[0])) for trial in (0, 1)]
    return None if None in tried else min((0, 1), key=lambda trial: tried[trial]["validation_loss"])


def trained(run: tuple[str, int, int], options: argparse.Namespace) -> dict:
    """A run's figures, and which evaluation rows were right in the end."""
    arm, trial, seed = run
    folder = options.out / f"{arm}-{trial}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    stages = {name: stage | {"learning_rate": RATES[stage["method"]][trial]} for name, stage in ARMS[arm].items()}
    task = {"name": "boolq", "passage": True, "source": str(options.boolq.resolve()), "train_limit": options.rows}
    recipe = {"name": arm, "model": {"name": MODEL}, "task": task, "stages": stages, "seed": seed}
    recipe |= {"evaluation": {"batch_size": 64}, "output": str(folder.resolve() / "run")}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "heft", "train", str(folder / "recipe.yaml"), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    found = {"arm": arm, "trial": trial, "seed": seed}
    if done.returncode:
        return found | {"error": (done.stdout + done.stderr)[-800:]}
    summary = json.loads((folder / "run" / "summary.json").read_text())["stages"]
    last = summary[-1]
    steps = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [each["eval_loss"] for each in steps if each.get("eval_loss") is not None]
    records = (folder / "run" / "records" / f"{last['name']}.jsonl").read_text().splitlines()
    return found | {
        "device": json.loads((folder / "run" / "manifest.json").read_text())["device"],
        "validation_loss": losses[-1],
        "accuracy": last["accuracy"],
        "seconds": sum(stage["seconds"] for stage in summary),
        "steps": sum(stage["steps"] for stage in summary),
        "flops": sum(stage["flops"] for stage in summary),
        "correct": "".join(str(int(json.loads(record)["correct"])) for record in records),
    }


def table_of(out: Path) -> str:
    """Markdown: a line an arm, and its difference to HEFT with a bootstrap interval over seeds and rows."""
    found = results_of(out)
    lines = [
        "| arm | rates | seeds | accuracy, each seed | mean | to `heft` (95 %) | training, s | FLOP, 10¹⁵ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    correct = {}
    for arm in ARMS:
        best = chosen(arm, found)
        runs = [found[arm, best, seed] for seed in SEEDS if best is not None and (arm, best, seed) in found]
        if runs:
            correct[arm] = {each["seed"]: np.array([int(c) for c in each["correct"]]) for each in runs}
    for arm, by_seed in correct.items():
        best = chosen(arm, found)
        runs = [found[arm, best, seed] for seed in by_seed]
        rates = ", ".join(f"{RATES[stage['method']][best]:.0e}" for stage in ARMS[arm].values())
        cells = [arm, rates, str(len(runs)), ", ".join(f"{100 * each['accuracy']:.1f}" for each in runs)]
        cells.append(f"{100 * np.mean([each['accuracy'] for each in runs]):.1f}")
        cells.append(_difference(by_seed, correct["heft"]) if "heft" in correct and arm != "heft" else "–")
        cells.append(f"{np.mean([each['seconds'] for each in runs]):.0f}")
        cells.append(f"{np.mean([each['flops'] for each in runs]) / 1e15:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(arm: dict[int, np.ndarray], reference: dict[int, np.ndarray]) -> str:
    seeds = sorted(arm.keys() & reference.keys())
    change = np.array([arm[seed] - reference[seed] for seed in seeds])
    rng = np.random.default_rng(0)
    runs, rows = change.shape
    draws = [change[rng.integers(runs, size=runs)][:, rng.integers(rows, size=rows)].mean() for _ in range(DRAWS)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{100 * change.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


if __name__ == "__main__":
    main()
