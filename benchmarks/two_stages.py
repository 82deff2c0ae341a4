"""Where a second stage helps: `heft tune`, then a study of its arms over seeds, on each of several data sets and sizes.

    python benchmarks/two_stages.py first --data DIR --tasks DIR --out OUT [--cells boolq-300 …]
    python benchmarks/two_stages.py run --data DIR --tasks DIR --out OUT --cells boolq-300 … [--budget 15epochs]
        [--seeds 5] [--at-once 1] [--model FOLDER]

A cell is a data set and a number of training rows. `first` trains the default recipe once in each cell, to find those
that end between 55 and 95 % and above the majority class; `run` tunes every arm of a cell with the same budget on
held-out training rows, and runs each arm's best recipe with several seeds on the evaluation split. Both go on where
they were stopped. What came of a cell is written to two_stages_results/CELL.json, which two_stages_map.py shows; with
another model than the embedded one, to a folder of its name there.

--tasks has a folder of JSON Lines for boolq, siqa and arc_easy, as on the Hub; --data, which two_stages_data.py writes,
has `<name>_train.jsonl` and `<name>_test.jsonl` for agnews, sst2 (text, label) and banking77 (text, intent).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from at_once import compared

RESULTS = Path(__file__).parent / "two_stages_results"
LABELS = {
    "agnews": ("Text: {text}\nLabel:", "label"),
    "banking77": ("Text: {text}\nIntent:", "intent"),
    "sst2": ("Review: {text}\nSentiment:", "label"),
}
SETS = ("boolq", "siqa", "arc_easy", *LABELS)
BATCH_SIZES = {100: [8, 32], 300: [8, 32], 1000: [16, 32], 3000: [32, 64]}
"""Rows of a step that are tried in every stage, by training rows."""
BOUNDS = (0.55, 0.95)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("first", "run"):
        command = commands.add_parser(name)
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--tasks", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--cells", nargs="+", default=[f"{data}-{rows}" for data in SETS for rows in BATCH_SIZES])
        command.add_argument("--eval-rows", type=int, default=1000, help="most evaluation rows")
        command.add_argument("--model", type=Path, help="folder of another model")
    commands.choices["run"].add_argument("--budget", default="15epochs")
    commands.choices["run"].add_argument("--seeds", type=int, default=5)
    commands.choices["run"].add_argument("--at-once", type=int, default=1, help="runs of the study side by side")
    options = parser.parse_args()
    for cell in options.cells:
        folder = options.out / cell
        folder.mkdir(parents=True, exist_ok=True)
        recipe = folder / "recipe.json.yaml"
        recipe.write_text(json.dumps(recipe_of(cell, options, options.model), indent=2))
        (first if options.command == "first" else run)(folder, recipe, options)


def recipe_of(cell: str, options: argparse.Namespace, model: Path | None = None) -> dict:
    """What all arms of a cell have in common; methods and their settings are the search's.

    Of the options `data`, `tasks` and `eval_rows` count; `model` is the folder of another model.
    """
    name, _, rows = cell.rpartition("-")
    data, tasks = options.data.resolve(), options.tasks.resolve()
    task: dict = {"train_limit": int(rows), "eval_limit": options.eval_rows}
    if name != "boolq":  # whose answers are words anyway
        task["format"] = "cloze"
    if name in LABELS:
        prompt, answer = LABELS[name]
        files = {"train": str(data / f"{name}_train.jsonl"), "eval": str(data / f"{name}_test.jsonl")}
        task |= {"name": "rows", **files, "prompt": prompt, "answer": answer, "choices": "labels"}
    else:
        task |= {"name": name, "source": str(tasks / name)} | ({"passage": True} if name == "boolq" else {})
    sizes = BATCH_SIZES[int(rows)]
    batch = {"batch_size": sizes[0]}
    return {
        "name": cell,
        **({} if model is None else {"model": {"name": str(model.resolve())}}),
        "task": task,
        "stages": {"coarse": {"method": "lora", **batch}, "fine": {"method": "reft", "positions": "l4", **batch}},
        "tune": {method: {"batch_size": sizes} for method in ("lora", "reft")},
        "evaluation": {"batch_size": 64, "normalize": "bytes" if name == "arc_easy" else "none"},
        "allow": ["train_in_eval"],  # ARC has a question in train and test (docs/checks.md)
    }


def first(folder: Path, recipe: Path, options: argparse.Namespace) -> None:
    """The default recipe once, and whether a cell has room above and below it."""
    heft("train", recipe, "--output", folder / "first", "--resume", "--quiet")
    stages = json.loads((folder / "first" / "summary.json").read_text())["stages"]
    best = max(stages[1:], key=lambda stage: stage["accuracy"])
    is_above_majority = best["interval"][0] > best["majority"]
    room = "room" if is_above_majority and BOUNDS[0] <= best["accuracy"] <= BOUNDS[1] else "no room"
    accuracies = [f"{stage['name']} {100 * stage['accuracy']:.1f}" for stage in stages]
    print(folder.name, *accuracies, f"majority {100 * best['majority']:.1f}", room, flush=True)


def run(folder: Path, recipe: Path, options: argparse.Namespace) -> None:
    """Tune the arms, then run each arm's best recipe with every seed."""
    found = folder / "tune"
    if not (found / "study.yaml").is_file():
        again = ["--resume"] if found.is_dir() else []
        heft("tune", recipe, "--budget", options.budget, "--output", found, "--no-run", *again)
    lines = (found / "study.yaml").read_text().partition("\nseeds:")[0] + "\n"
    study = found / "study_of_cell.yaml"
    study.write_text(f"{lines}seeds: {list(range(options.seeds))}\nbase: true\noutput: {folder.resolve() / 'study'}\n")
    print(compared(study, options.at_once))
    results = RESULTS if options.model is None else RESULTS / options.model.name
    results.mkdir(exist_ok=True)
    (results / f"{folder.name}.json").write_text(json.dumps(result_of(folder, options.budget), indent=1) + "\n")


def result_of(folder: Path, budget: str) -> dict:
    """A cell's arms and pairs, and what the search found for each arm."""
    comparison = json.loads((folder / "study" / "comparison.json").read_text())
    tuned = json.loads((folder / "tune" / "tune.json").read_text())
    arm_keys = ("name", "seeds", "n", "accuracy", "interval", "seed_sd", "costs")
    pair_keys = ("first", "second", "difference", "interval", "p_value", "p_holm")
    return {
        "budget": budget,
        "validation_rows": tuned["validation_rows"],
        "arms": [{key: arm[key] for key in arm_keys} for arm in comparison["arms"]],
        "pairs": [{key: pair[key] for key in pair_keys} for pair in comparison["pairs"]],
        "tuned": {arm["arm"]: tuned_arm(arm) for arm in tuned["arms"]},
        "stages": {arm["name"]: found for arm in comparison["arms"] if (found := accuracies(folder / "study", arm))},
    }


def accuracies(study: Path, arm: dict) -> dict[str, list[float]]:
    """After each stage of an arm, by seed; what the second one added is their difference."""
    found: dict[str, list[float]] = {}
    for seed in arm["seeds"]:
        run = study / arm["name"] / f"seed-{seed}" / "summary.json"
        for stage in json.loads(run.read_text())["stages"] if run.is_file() else ():
            if stage["steps"]:
                found.setdefault(stage["name"], []).append(stage["accuracy"])
    return found


def tuned_arm(arm: dict) -> dict:
    """The best trial of an arm: its loss, the difference to the lowest, and what was chosen."""
    chosen = ("method", "steps", "batch_size", "learning_rate", "reft_learning_rate", "rank", "positions")
    chosen += ("lora", "reft", "schedule")
    stages = {
        name: {key: stage[key] for key in chosen if stage.get(key) is not None}
        for name, stage in arm["best"]["stages"].items()
    }
    return {key: arm[key] for key in ("loss", "difference", "interval", "spent", "trials")} | {"stages": stages}


def heft(*arguments: object) -> None:
    """The command line, in a process of its own; it ends this script where it fails."""
    command = [sys.executable, "-m", "heft", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


if __name__ == "__main__":
    main()
