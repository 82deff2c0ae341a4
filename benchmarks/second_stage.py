"""What a second stage adds to a first one, by its method, its rate, its length and more, on held-out rows.

    python benchmarks/second_stage.py run --data DIR --tasks DIR --out OUT [--cells sst2-300 …] [--seeds 4]
    python benchmarks/second_stage.py table [--cells sst2-300 …]

In each cell (see two_stages.py) and with each seed, which draws other training and validation rows too: LoRA alone
and ReFT alone; behind LoRA of one epoch and of three all second stages of ReFT and of LoRA; behind LoRA of one epoch
edits of other ranks, and edits that keep out of the directions of LoRA; and the other order, ReFT of one epoch and
then LoRA. Each is one `heft sweep`, so all of it is measured on the same rows. LoRA acts on the last 8 prompt tokens
and what follows (`l8+`). A second stage whose rate is next to 0 is the first stage alone. `run` goes on where it was
stopped, and writes what is there to second_stage_results/CELL.json; `table` has means over seeds, and differences to
the first stage alone with t intervals over seeds. Nothing in it is chosen, so it says what to try, not how good the
best one is.
"""

import argparse
import json
import statistics
from argparse import Namespace
from pathlib import Path

from scipy import stats
from two_stages import SETS, heft, recipe_of

RESULTS = Path(__file__).parent / "second_stage_results"
VALIDATION_ROWS = 600
NOTHING = 1e-9
"""A rate that changes no weight."""
LORA = {"method": "lora", "positions": "l8+", "rank": 8}
REFT = {"method": "reft", "rank": 4}
FIRST = {
    **{f"lora-{epochs}": LORA | {"learning_rate": 1e-3, "epochs": epochs} for epochs in (1, 3)},
    "reft-1": REFT | {"positions": "l4+", "learning_rate": 2e-3, "epochs": 1},
}
"""First stages."""
SECOND = {
    "reft": (REFT, {"positions": ["l1", "l4+"], "learning_rate": [NOTHING, 2e-4, 6e-4, 2e-3], "epochs": [1, 3]}),
    "lora": (LORA, {"learning_rate": [1e-4, 3e-4, 1e-3], "epochs": [1, 3]}),
}
ONWARD = REFT | {"positions": "l4+", "epochs": 3}
SWEEPS = {
    "lora": (None, LORA, {"learning_rate": [3e-4, 1e-3, 3e-3], "epochs": [1, 3]}),
    "reft": (None, REFT, {"positions": ["l1", "l4+"], "learning_rate": [6e-4, 2e-3, 6e-3], "epochs": [1, 3]}),
    **{f"lora-{epochs}-then-{method}": (f"lora-{epochs}", *two) for epochs in (1, 3) for method, two in SECOND.items()},
    "lora-1-then-reft-rank": ("lora-1", ONWARD, {"learning_rate": [2e-4, 6e-4], "rank": [1, 4, 16, 64]}),
    "lora-1-then-reft-orthogonal": (
        "lora-1",
        ONWARD | {"orthogonal_to": "coarse"},
        {"learning_rate": [2e-4, 6e-4], "orthogonal_side": ["read", "write", "both"]},
    ),
    "reft-1-then-lora": ("reft-1", LORA, {"learning_rate": [NOTHING, 1e-4, 3e-4, 1e-3], "epochs": [1, 3]}),
}
"""The first stage (None: there is none), the swept stage, and its values."""
ALONE = {
    "lora-1": ("lora-1-then-reft", f"l1 {NOTHING:g} 1"),
    "lora-3": ("lora-3-then-reft", f"l1 {NOTHING:g} 1"),
    "reft-1": ("reft-1-then-lora", f"{NOTHING:g} 1"),
}
"""Sweep and configuration that are a first stage alone."""


def main() -> None:
    parser = parser_of(__doc__, [f"{name}-300" for name in SETS])
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    for cell in options.cells:
        if options.what == "run":
            run(cell, options)
        elif (RESULTS / f"{cell}.json").is_file():
            table(cell, json.loads((RESULTS / f"{cell}.json").read_text()))


def parser_of(about: str, cells: list[str]) -> argparse.ArgumentParser:
    """What a script that runs cells is asked, and these others take."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    for name in ("--data", "--tasks", "--out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--cells", nargs="+", default=cells)
    return parser


def run(cell: str, options: Namespace) -> None:
    """All sweeps of a cell that are not there yet."""
    common = recipe_of(cell, Namespace(data=options.data, tasks=options.tasks, eval_rows=8))
    rows, batch = common["task"]["train_limit"], {"batch_size": common["stages"]["coarse"]["batch_size"]}
    common["task"]["train_limit"] = rows + VALIDATION_ROWS
    holdout = VALIDATION_ROWS / (rows + VALIDATION_ROWS)
    for seed in range(options.seeds):
        for name, (first, stage, grid) in SWEEPS.items():
            folder = options.out / cell / f"seed-{seed}" / name
            if not (folder / "results.json").is_file():
                coarse = {"coarse": FIRST[first] | batch | {"holdout": holdout}} if first else {}
                stages = coarse | {"fine": stage | batch}
                own = {"stages": stages, "sweep": {"holdout": holdout, "grid": grid}, "seed": seed, "name": name}
                folder.parent.mkdir(parents=True, exist_ok=True)
                recipe = folder.parent / f"{name}.yaml"
                recipe.write_text(json.dumps(common | own, indent=2))
                heft("sweep", recipe, "--output", folder, "--overwrite", "--quiet")
            write(cell, options.out / cell)


def write(cell: str, folder: Path) -> None:
    """What is there of a cell: loss and accuracy of each configuration by sweep, in the order of seeds."""
    found: dict[str, dict[str, list]] = {}
    for name in SWEEPS:
        for path in sorted(folder.glob(f"seed-*/{name}/results.json")):
            for each in json.loads(path.read_text())["results"]:
                words = (f"{value:g}" if isinstance(value, float) else str(value) for value in each["values"].values())
                about = [each["loss"], each["accuracy"]]
                found.setdefault(name, {}).setdefault(" ".join(words), []).append(about)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{cell}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def table(cell: str, found: dict[str, dict[str, list]]) -> None:
    """Every configuration of every sweep."""
    print(f"\n{cell}, {VALIDATION_ROWS} validation rows\n")
    print("| sweep | configuration | seeds | loss | accuracy, % | points more than the first stage (95 %) |")
    print("|---|---|---|---|---|---|")
    for name, (first, _, _) in SWEEPS.items():
        sweep, configuration = ALONE[first] if first else ("", "")
        alone = found.get(sweep, {}).get(configuration, [])
        for key, seeds in sorted(found.get(name, {}).items()):
            sound = [each for each in seeds if each[0] is not None]
            if len(sound) < len(seeds):
                print(f"| {name} | {key} | {len(seeds)} | diverged with {len(seeds) - len(sound)} | | |")
                continue
            loss, accuracy = (statistics.mean(each[place] for each in seeds) for place in (0, 1))
            more = [100 * (each[1] - before[1]) for each, before in zip(seeds, alone, strict=False)]
            print(f"| {name} | {key} | {len(seeds)} | {loss:.3f} | {100 * accuracy:.1f} | {interval(more)} |")


def interval(differences: list[float], digits: int = 1) -> str:
    """Their mean; with its 95 % interval over seeds where there are several."""
    if not differences:
        return ""
    mean = statistics.mean(differences)
    if len(differences) == 1:
        return f"{mean:+.{digits}f}"
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return f"{mean:+.{digits}f} ({mean - half:+.{digits}f} to {mean + half:+.{digits}f})"


if __name__ == "__main__":
    main()
