"""The paper's three rows on BoolQ, on a model at hand, each arm tuned alike: HEFT for 3 epochs, LoRA and ReFT for 20.

    python benchmarks/paper_rows.py trials --boolq DIR --out OUT [--rows 3000] [--arms heft_l8 …] [--at-once 1]
    python benchmarks/paper_rows.py study --boolq DIR --out OUT [--rows 3000] [--arms heft_l8 …] [--at-once 1]

Arms are those of recipes/paper/arms, with steps of 32 rows; beside the paper's, LoRA and HEFT whose LoRA acts on the
last 8 prompt tokens and what follows (`l8+`), so that what stands before is computed once, and LoRA for 3 epochs.
`trials` trains every arm with two rates, on nine tenths of the rows, seed 0. `study` takes the rate of each arm whose
validation loss is lower at the end, and compares the arms with three other seeds on all of BoolQ's validation rows
(`heft compare`), from which nothing was chosen. Both go on where they were stopped. `--arms heft_l8 lora_l8_20 reft_20`
leaves out LoRA of all tokens, which takes most of the time.
"""

import argparse
import json
from pathlib import Path

from at_once import compared

ARMS = Path(__file__).parents[1] / "src/heft/recipes/paper/arms"
STEP = {"batch_size": 32, "micro_batch_size": None, "holdout": 0.1}
RATES = {"coarse": (3e-4, 1e-3), "fine": (1e-3, 3e-3)}
"""Of LoRA and of ReFT; an arm with two stages has both lower ones or both higher ones, so that all have two trials."""
L8 = {"stages.coarse.positions": "l8+"}
OF_AN_ARM = {
    "lora_20": ("lora", {"stages.coarse.epochs": 20}),
    "lora_l8_20": ("lora", L8 | {"stages.coarse.epochs": 20}),
    "reft_20": ("reft", {"stages.fine.epochs": 20}),
    "heft": ("heft", {}),
    "heft_l8": ("heft", L8),
    "lora_3": ("lora", {"stages.coarse.epochs": 3}),
}
"""File and settings of each arm."""
STAGES = {"heft": ("coarse", "fine"), "lora": ("coarse",), "reft": ("fine",)}
TRIALS, SEEDS = (0, 1), [1, 2, 3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("trials", "study"))
    parser.add_argument("--boolq", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--arms", nargs="+", choices=OF_AN_ARM, default=list(OF_AN_ARM))
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side")
    options = parser.parse_args()
    if options.what == "trials":
        arms = {f"{name}-{trial}": arm(name, trial) for name in options.arms for trial in TRIALS}
        compare(options, {"seeds": [0], "arms": arms}, **{"task.eval_limit": 50})  # which nothing is chosen by
    else:
        arms = {name: arm(name, chosen(options.out / "trials", name)) for name in options.arms}
        reference = next(name for name in ("heft", "heft_l8", *arms) if name in arms)
        compare(options, {"seeds": SEEDS, "reference": reference, "base": True, "arms": arms})


def arm(name: str, trial: int) -> dict:
    """An arm of a study, with the lower or the higher rates."""
    file, settings = OF_AN_ARM[name]
    for stage in STAGES[file]:
        values = STEP | {"learning_rate": RATES[stage][trial]}
        settings = settings | {f"stages.{stage}.{key}": value for key, value in values.items()}
    return {"recipe": str(ARMS / f"{file}.yaml"), "set": settings}


def chosen(trials: Path, name: str) -> int:
    """The trial of lower validation loss at the end of its schedule."""
    return min(TRIALS, key=lambda trial: last_loss(trials / f"{name}-{trial}" / "seed-0" / "metrics.jsonl"))


def last_loss(metrics: Path) -> float:
    lines = map(json.loads, metrics.read_text().splitlines())
    return [each["eval_loss"] for each in lines if each.get("eval_loss") is not None][-1]


def compare(options: argparse.Namespace, study: dict, **settings: object) -> None:
    """Run a study in a folder of its own, with further settings of all arms, and print its comparison."""
    options.out.mkdir(parents=True, exist_ok=True)
    common = {
        "model": {"name": "embedded:smollm2-135m-instruct"},
        "task.source": str(options.boolq.resolve()),
        "task.train_limit": options.rows,
        "evaluation.batch_size": 64,
        **settings,
    }
    folder = options.out.resolve() / options.what
    path = options.out / f"{options.what}.yaml"
    path.write_text(json.dumps({"name": f"paper-rows-{options.what}", "set": common, "output": str(folder), **study}))
    print(compared(path, options.at_once))


if __name__ == "__main__":
    main()
