"""Whether a second stage adds more on rows that the first has not seen: SST-2, 300 rows, 3 seeds.

    python benchmarks/unseen_rows.py --data DIR --out OUT

A LoRA stage (the map's for this cell) is trained on 200 of the rows; ReFT behind it on the other 100, or on 100 of the
same. Prints the accuracy after each stage on 400 evaluation rows. Goes on where it was stopped. --data as for
two_stages.py.
"""

import argparse
import json
import random
from pathlib import Path

from two_stages import heft, recipe_of

from heft.tasks.loading import sampled_indices

CELL, SEEDS, FIRST = "sst2-300", 3, 200
LORA = {"method": "lora", "rank": 8, "learning_rate": 3e-3, "batch_size": 8, "steps": 47}
REFT = {"method": "reft", "rank": 8, "positions": "l4", "batch_size": 8}
SECOND = ({"learning_rate": 6e-4, "steps": 12}, {"learning_rate": 2e-3, "steps": 38})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(tasks=Path(), eval_rows=400, model=None)
    options = parser.parse_args()
    common = recipe_of(CELL, options)
    rows = Path(common["task"]["train"]).read_text().splitlines()
    rows = [rows[place] for place in sampled_indices(len(rows), common["task"].pop("train_limit"), 0)]
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in range(SEEDS):
        order = list(rows)
        random.Random(seed).shuffle(order)
        parts = {"first": order[:FIRST], "unseen": order[FIRST:], "seen": order[: len(rows) - FIRST]}
        for part, lines in parts.items():
            (options.out / f"{part}-{seed}.jsonl").write_text("\n".join(lines))
        train(common, options.out, "first", seed, {"coarse": LORA})
        done = {"coarse": {"method": "lora", "from": str(options.out.resolve() / f"run-first-{seed}" / "adapter")}}
        for part in ("unseen", "seen"):
            for number, length in enumerate(SECOND):
                train(common, options.out, part, seed, {**done, "fine": REFT | length}, f"-{number}")


def train(common: dict, out: Path, part: str, seed: int, stages: dict, end: str = "") -> None:
    """Run a recipe on a part of the rows, and print what it comes to."""
    name = f"{part}-{seed}{end}"
    task = common["task"] | {"train": str(out.resolve() / f"{part}-{seed}.jsonl")}
    own = {key: value for key, value in common.items() if key != "tune"}
    (out / f"{name}.yaml").write_text(json.dumps({**own, "name": name, "task": task, "stages": stages, "seed": seed}))
    heft("train", out / f"{name}.yaml", "--output", out / f"run-{name}", "--resume", "--quiet")
    found = json.loads((out / f"run-{name}" / "summary.json").read_text())["stages"]
    print(name, *(f"{stage['name']} {100 * stage['accuracy']:.1f}" for stage in found), flush=True)


if __name__ == "__main__":
    main()
