"""The paper's three rows on BoolQ, on a model at hand, each arm tuned alike: HEFT for 3 epochs, LoRA and ReFT for 20.

    python benchmarks/paper_rows.py --boolq DIR --out OUT [--rows 3000] [--arms heft_l8 …] [--seeds 3] [--at-once 1]

Arms are those of recipes/paper/arms, with steps of 32 rows; beside the paper's, LoRA and HEFT whose LoRA acts on the
last 8 prompt tokens and what follows (`l8+`), so that what stands before is computed once, and single methods for 3
epochs.
Every arm is trained with two rates on nine tenths of the rows, with seed 0. The rate whose validation loss on the other
tenth is lower at the end is then trained with the other seeds, and evaluated on all of BoolQ's validation rows, from
which nothing is chosen. Figures of each run are added to paper_rows_results.json, with which questions it answered
rightly, and a run that is there is not run again, so several machines can share the work. On one machine a second call
goes on where the first was stopped, and `heft compare` shows the study in `--out`.
`--arms lora_l8_20 reft_20 heft_l8` leaves out LoRA of all tokens, which takes most of the time.
"""

import argparse
import json
from pathlib import Path

from at_once import compared

from heft.run.begun import is_finished

ARMS = Path(__file__).parents[1] / "src/heft/recipes/paper/arms"
STEP = {"batch_size": 32, "micro_batch_size": None, "holdout": 0.1}
RATES = {"coarse": (3e-4, 1e-3), "fine": (1e-3, 3e-3)}
"""Of LoRA and of ReFT; an arm with two stages has both lower ones or both higher ones, so that all have two trials."""
ALL = {"stages.coarse.micro_batch_size": 8}
"""Of LoRA of all tokens: a step of 32 rows with their passages takes 20 GB, in micro-batches of 8 half of it."""
L8 = {"stages.coarse.positions": "l8+"}
OF_AN_ARM = {
    "lora_20": ("lora", ALL | {"stages.coarse.epochs": 20}),
    "lora_l8_20": ("lora", L8 | {"stages.coarse.epochs": 20}),
    "reft_20": ("reft", {"stages.fine.epochs": 20}),
    "heft": ("heft", ALL),
    "heft_l8": ("heft", L8),
    "lora_3": ("lora", ALL | {"stages.coarse.epochs": 3}),
    "lora_l8_3": ("lora", L8 | {"stages.coarse.epochs": 3}),
    "reft_3": ("reft", {"stages.fine.epochs": 3}),
}
"""File and settings of each arm."""
RESULTS = Path(__file__).with_name("paper_rows_results.json")
STAGES = {"heft": ("coarse", "fine"), "lora": ("coarse",), "reft": ("fine",)}
TRIALS = (0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boolq", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--arms", nargs="+", choices=OF_AN_ARM, default=list(OF_AN_ARM))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side")
    options = parser.parse_args()
    run_missing(options, [f"{name}-{trial}" for name in options.arms for trial in TRIALS], [0])
    best = [f"{name}-{chosen(options.rows, name)}" for name in options.arms]
    run_missing(options, best, list(range(options.seeds)))
    for name in best:
        runs = results(options.rows)[name]
        print(name, *(f"{run}: {100 * each['stages'][-1]['accuracy']:.1f} %" for run, each in runs.items()))


def run_missing(options: argparse.Namespace, arms: list[str], seeds: list[int]) -> None:
    """Run what the results lack of some arms, print how those compare, and add them to the results."""
    known = results(options.rows)
    lacking = [(name, seed) for name in arms for seed in seeds if f"seed-{seed}" not in known.get(name, {})]
    if lacking:
        names = list(dict(lacking))
        study = options.out / "study"

        def is_here(name: str, seed: int) -> bool:
            return is_finished(study / name / f"seed-{seed}")

        here = {seed for seed in seeds if all(is_here(name, seed) for name in names)}
        seeds = sorted(here | {seed for _, seed in lacking})
        # those that are here are not run again, but their evaluation of the base serves all
        others = [name for name in known if name not in names and all(is_here(name, seed) for seed in seeds)]
        print(compare(options, names + others, seeds))
        note_results(options.rows, study)


def arm(named: str) -> dict:
    """The arm `NAME-TRIAL` of a study: of lower rates or of higher ones."""
    name, _, trial = named.rpartition("-")
    file, settings = OF_AN_ARM[name]
    for stage in STAGES[file]:
        values = STEP | {"learning_rate": RATES[stage][int(trial)]}
        settings = {f"stages.{stage}.{key}": value for key, value in values.items()} | settings
    return {"recipe": str(ARMS / f"{file}.yaml"), "set": settings}


def chosen(rows: int, name: str) -> int:
    """The trial of lower validation loss at the end of its schedule."""
    return min(TRIALS, key=lambda trial: results(rows)[f"{name}-{trial}"]["seed-0"]["validation_losses"][-1])


def results(rows: int) -> dict[str, dict]:
    """What is known of runs on so many rows, by arm with its rates, and by seed."""
    return all_results().get(str(rows), {})


def all_results() -> dict[str, dict[str, dict]]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def validation_losses(metrics: Path) -> list[float]:
    lines = map(json.loads, metrics.read_text().splitlines())
    return [each["eval_loss"] for each in lines if each.get("eval_loss") is not None]


def note_results(rows: int, study: Path) -> None:
    """Add every finished run of a study to the results."""
    found = all_results()
    for run in sorted(study.glob("*/seed-*")):
        if is_finished(run):
            found.setdefault(str(rows), {}).setdefault(run.parent.name, {})[run.name] = result_of(run)
    RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def result_of(run: Path) -> dict:
    """A run's figures after each stage, its validation losses, and which questions it got right, in order of ids."""
    figures = ["name", "n", "accuracy", "interval", "balanced_accuracy", "steps", "flops"]
    figures += ["seconds", "evaluation_seconds"]
    stages = json.loads((run / "summary.json").read_text())["stages"]
    records = map(json.loads, (run / "records" / f"{stages[-1]['name']}.jsonl").read_text().splitlines())
    right = {record["id"]: record["correct"] for record in records}
    return {
        "stages": [{key: stage[key] for key in figures} for stage in stages],
        "validation_losses": [round(loss, 4) for loss in validation_losses(run / "metrics.jsonl")],
        "right": "".join(str(int(right[key])) for key in sorted(right)),
    }


def compare(options: argparse.Namespace, arms: list[str], seeds: list[int]) -> str:
    """Run what is not finished of arms in the one study of `--out`; the text of its comparison."""
    options.out.mkdir(parents=True, exist_ok=True)
    common = {
        "model": {"name": "embedded:smollm2-135m-instruct"},
        "task.source": str(options.boolq.resolve()),
        "task.train_limit": options.rows,
        "evaluation.batch_size": 64,
    }
    study = {
        "name": "paper-rows",
        "output": str(options.out.resolve() / "study"),
        "set": common,
        "seeds": seeds,
        "reference": next((name for name in arms if name.startswith("heft")), arms[0]),
        "base": True,
        "arms": {name: arm(name) for name in arms},
    }
    path = options.out / "study.yaml"
    path.write_text(json.dumps(study))
    return compared(path, options.at_once)


if __name__ == "__main__":
    main()
