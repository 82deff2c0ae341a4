"""Where a second stage helps: `heft tune`, then a study of its arms over seeds, on each of several data sets and sizes.

    python benchmarks/two_stages.py first --data DIR --tasks DIR --out OUT [--cells boolq-300 …]
    python benchmarks/two_stages.py run --data DIR --tasks DIR --out OUT --cells boolq-300 … [--budget 15epochs]
    python benchmarks/two_stages.py table OUT > map.md
    python benchmarks/two_stages.py figure OUT > docs/two_stages.svg

A cell is a data set and a number of training rows. `first` trains the default recipe once in each cell, to find those
that end between 55 and 95 %; `run` tunes every arm of a cell with the same budget on held-out training rows, and runs
each arm's best recipe with several seeds on the evaluation split. Both go on where they were stopped. `table` prints a
line a cell: the best single method, two stages, their paired difference with its interval and the p-value of the study
(Holm within a cell), and the seconds of training of both. `figure` draws the differences.

--tasks has a folder of JSON Lines for boolq, siqa and arc_easy, as on the Hub; --data has `<name>_train.jsonl` and
`<name>_test.jsonl` for agnews, sst2 (text, label) and banking77 (text, intent).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from heft.text.svg import BOTTOM, RIGHT, TOP, Axis, Drawing, axis

LABELS = {
    "agnews": ("Text: {text}\nLabel:", "label"),
    "banking77": ("Text: {text}\nIntent:", "intent"),
    "sst2": ("Review: {text}\nSentiment:", "label"),
}
SETS = ("boolq", "siqa", "arc_easy", *LABELS)
BATCH_SIZES = {100: 8, 300: 8, 1000: 16, 3000: 32}
"""Rows of a step, by training rows; the same in every arm."""
BOUNDS = (0.55, 0.95)
SINGLE, TWO = ("lora", "reft"), "lora-reft"
NAMES = {"lora": "LoRA", "reft": "ReFT"}
ROW = 34
"""Of the figure, for a cell."""


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
    commands.choices["run"].add_argument("--budget", default="15epochs")
    commands.choices["run"].add_argument("--seeds", type=int, default=5)
    for name in ("table", "figure"):
        commands.add_parser(name).add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command in ("table", "figure"):
        print({"table": table_of, "figure": figure_of}[options.command](options.out), end="")
        return
    for cell in options.cells:
        folder = options.out / cell
        folder.mkdir(parents=True, exist_ok=True)
        recipe = folder / "recipe.json.yaml"
        recipe.write_text(json.dumps(recipe_of(cell, options), indent=2))
        (first if options.command == "first" else run)(folder, recipe, options)


def recipe_of(cell: str, options: argparse.Namespace) -> dict:
    """What all arms of a cell have in common; methods and their settings are the search's."""
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
    batch = {"batch_size": BATCH_SIZES[int(rows)]}
    return {
        "name": cell,
        "task": task,
        "stages": {"coarse": {"method": "lora", **batch}, "fine": {"method": "reft", "positions": "l4", **batch}},
        "evaluation": {"batch_size": 64, "normalize": "bytes" if name == "arc_easy" else "none"},
        "allow": ["train_in_eval"],  # ARC has a question in train and test (docs/checks.md)
    }


def first(folder: Path, recipe: Path, options: argparse.Namespace) -> None:
    """The default recipe once, and whether a cell has room above and below it."""
    heft("train", recipe, "--output", folder / "first", "--resume", "--quiet")
    stages = json.loads((folder / "first" / "summary.json").read_text())["stages"]
    best = max(stage["accuracy"] for stage in stages[1:])
    room = "room" if BOUNDS[0] <= best <= BOUNDS[1] else "no room"
    print(folder.name, *(f"{stage['name']} {100 * stage['accuracy']:.1f}" for stage in stages), room, flush=True)


def run(folder: Path, recipe: Path, options: argparse.Namespace) -> None:
    """Tune the arms, then run each arm's best recipe with every seed."""
    found = folder / "tune"
    if not (found / "study.yaml").is_file():
        again = ["--resume"] if found.is_dir() else []
        heft("tune", recipe, "--budget", options.budget, "--output", found, "--no-run", *again)
    lines = (found / "study.yaml").read_text().partition("\nseeds:")[0] + "\n"
    study = found / "study_of_cell.yaml"
    study.write_text(f"{lines}seeds: {list(range(options.seeds))}\nbase: true\noutput: {folder.resolve() / 'study'}\n")
    heft("compare", study)


def heft(*arguments: object) -> None:
    """The command line, in a process of its own; it ends this script where it fails."""
    command = [sys.executable, "-m", "heft", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def table_of(out: Path) -> str:
    """Markdown: a line for each cell whose study is finished."""
    lines = [
        "| cell | seeds | base | LoRA | ReFT | LoRA, then ReFT | LoRA, then LoRA | joint | two stages against the best"
        " single (95 %) | p (Holm) | training, s: that single, two stages | FLOP spent, 10¹² |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(cell, comparison) for cell, comparison in finished(out)]
    return "\n".join([*lines, ""])


def finished(out: Path) -> list[tuple[str, dict]]:
    """Cells whose study is finished, by data set and then by rows, and what came of it."""
    found = [(path.parents[1].name, json.loads(path.read_text())) for path in out.glob("*/study/comparison.json")]
    return sorted(found, key=lambda each: (each[0].rpartition("-")[0], int(each[0].rpartition("-")[2])))


def figure_of(out: Path) -> str:
    """Two stages against the best single one in each cell, with intervals, as an SVG file."""
    cells = [(cell, comparison) for cell, comparison in finished(out) if TWO in _arms(comparison)]
    found = [_difference(comparison, _best_single(comparison)) for _, comparison in cells]
    x = axis(
        "LoRA, then ReFT, less the best single method: points of accuracy", [100 * v for each in found for v in each]
    )
    drawing = Drawing(x, Axis("", 0, len(cells)), TOP + BOTTOM + ROW * len(cells), left=RIGHT, y_axis=False)
    drawing.segment((0, 0), (0, len(cells)), "rule")
    for place, ((cell, comparison), (difference, low, high)) in enumerate(zip(cells, found, strict=True)):
        arms, single = _arms(comparison), _best_single(comparison)
        y, kind = len(cells) - place - 0.75, "a" if low > 0 or high < 0 else "e"
        drawing.segment((100 * low, y), (100 * high, y), f"line {kind}")
        drawing.dot((100 * difference, y), f"fill {kind}", 4)
        accuracies = f"{NAMES[single]} {_percent(arms[single])} %, two stages {_percent(arms[TWO])} %"
        drawing.text(RIGHT, TOP + ROW * place + 10, f"{cell.replace('-', ', ')} rows: {accuracies}")
    return drawing.file("Two stages against the best single method, by data set and training rows")


def _line(cell: str, comparison: dict) -> str:
    arms, single = _arms(comparison), _best_single(comparison)
    figures = [_percent(arms.get(name)) for name in ("base", "lora", "reft", TWO, "lora-lora", "joint")]
    two = ["no budget was left for it", "–"] if TWO not in arms else _against(comparison, single)
    costs = [arms[name]["costs"] for name in (single, TWO) if name in arms]
    cells = [cell, str(len(arms[single]["seeds"])), *figures, *two]
    cells.append(", ".join(f"{cost['seconds']:.0f}" for cost in costs))
    cells.append(", ".join(f"{cost['flops'] / 1e12:.0f}" for cost in costs))
    return f"| {' | '.join(cells)} |"


def _arms(comparison: dict) -> dict[str, dict]:
    return {arm["name"]: arm for arm in comparison["arms"]}


def _best_single(comparison: dict) -> str:
    arms = _arms(comparison)
    return max((name for name in SINGLE if name in arms), key=lambda name: arms[name]["accuracy"])


def _pair(comparison: dict, single: str) -> dict:
    return next(each for each in comparison["pairs"] if {each["first"], each["second"]} == {single, TWO})


def _difference(comparison: dict, single: str) -> tuple[float, float, float]:
    """Of two stages to a single one, and the ends of its interval."""
    pair = _pair(comparison, single)
    sign = 1 if pair["first"] == TWO else -1
    low, high = sorted(sign * end for end in pair["interval"])
    return sign * pair["difference"], low, high


def _against(comparison: dict, single: str) -> list[str]:
    """The difference of two stages to a single one with its interval, and the p-value."""
    difference, low, high = (f"{100 * value:+.1f}" for value in _difference(comparison, single))
    return [f"{difference} ({low} to {high}) against {NAMES[single]}", f"{_pair(comparison, single)['p_holm']:.3f}"]


def _percent(arm: dict | None) -> str:
    return "–" if arm is None else f"{100 * arm['accuracy']:.1f}"


if __name__ == "__main__":
    main()
