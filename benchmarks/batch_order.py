"""What the order of batches, and their size in a second stage, do to a short training, over seeds.

    python benchmarks/batch_order.py run order|size --data DIR --tasks DIR --out OUT [--cells sst2-300] [--first-seed 0]
        [--seeds 6]
    python benchmarks/batch_order.py table

`order`: LoRA (`l8+`) of one epoch and of two in batches of similar length that are sorted in windows (transformers'
`group_by_length`), in the same batches in random order, and in random batches. `size`: ReFT (`l4`, 24 steps) behind one
LoRA, in batches of 8 and of 32. Each is a `heft sweep` over seeds on held-out rows of a cell (see two_stages.py).
Nothing is chosen in it. What is there is added to batch_order_results.json.
"""

import json
import statistics
from argparse import Namespace
from pathlib import Path

import torch
from second_stage import VALIDATION_ROWS, interval, parser_of
from transformers.trainer_pt_utils import get_length_grouped_indices
from two_stages import recipe_of

from heft.recipe.files import load_recipe
from heft.sweep.run import sweep
from heft.training import batches

RESULTS = Path(__file__).parent / "batch_order_results.json"
LORA = {"method": "lora", "learning_rate": 1e-3, "batch_size": 8}
ORDERED = ({"fine": LORA | {"rank": 8, "positions": "l8+"}}, {"epochs": [1, 2]})
SIZED = (
    {
        "coarse": LORA | {"steps": 43},
        "fine": {"method": "reft", "rank": 4, "positions": "l4", "steps": 24},
    },
    {"learning_rate": [6e-4, 2e-3], "batch_size": [8, 32]},
)
"""Stages, and values of the last one that are tried beside seeds."""


def main() -> None:
    parser = parser_of(__doc__, ["sst2-300"])
    parser.add_argument("part", nargs="?", choices=("order", "size"), default="order")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=6)
    options = parser.parse_args()
    if options.what == "table":
        table(json.loads(RESULTS.read_text()))
        return
    for cell in options.cells:
        if options.part == "size":
            measure(cell, "size", SIZED, options)
            continue
        plain = batches._random_batches
        for order in ORDERS:
            batches._random_batches = ORDERS[order] or plain
            measure(cell, order, ORDERED, options)
        batches._random_batches = plain


def in_order(rows: list[int], batch_size: int) -> list[list[int]]:
    return [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]


ORDERS = {
    "sorted": lambda lengths, size: in_order(get_length_grouped_indices(lengths, size), size),
    "shuffled": None,  # as heft has it
    "random": lambda lengths, size: in_order(torch.randperm(len(lengths)).tolist(), size),
}


def measure(cell: str, name: str, part: tuple[dict, dict], options: Namespace) -> None:
    """One sweep, unless it is there; its accuracies and losses join the results."""
    common = recipe_of(cell, Namespace(data=options.data, tasks=options.tasks, eval_rows=8))
    rows = common["task"]["train_limit"]
    common["task"]["train_limit"] = rows + VALIDATION_ROWS
    holdout = VALIDATION_ROWS / (rows + VALIDATION_ROWS)
    stages, grid = part
    stages = {key: stage | ({"holdout": holdout} if key == "coarse" else {}) for key, stage in stages.items()}
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    folder = options.out / cell / f"{name}-{seeds[0]}-{seeds[-1]}"
    if not (folder / "results.json").is_file():
        own = {"holdout": holdout, "grid": grid | {"seed": seeds}, "evaluate_winner": False}
        recipe = folder.with_suffix(".json.yaml")
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(json.dumps(common | {"stages": stages, "sweep": own, "seed": 0, "name": name}))
        sweep(load_recipe(recipe, output=str(folder)), overwrite=True)
    add(cell, name, json.loads((folder / "results.json").read_text())["results"])


def add(cell: str, name: str, configurations: list[dict]) -> None:
    """Accuracy and loss by configuration and seed."""
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found = known.setdefault(cell, {}).setdefault(name, {})
    for each in configurations:
        values = dict(each["values"])
        seed = str(values.pop("seed"))
        about = ", ".join(f"{key} {value:g}" for key, value in values.items())
        found.setdefault(about, {})[seed] = [each["accuracy"], each["loss"]]
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def table(found: dict[str, dict[str, dict[str, dict[str, list[float]]]]]) -> None:
    """Means and spread over seeds; orders against the sorted one, by seed."""
    print("| cell | batches | | seeds | accuracy, SD, lowest, % | loss, SD | points more than sorted (95 %) | loss |")
    print("|---|---|---|---|---|---|---|---|")
    for cell, kinds in found.items():
        for kind, configurations in kinds.items():
            for about, seeds in configurations.items():
                right, losses = ([each[place] for each in seeds.values()] for place in (0, 1))
                accuracy = f"{100 * statistics.mean(right):.1f}, {100 * statistics.stdev(right):.1f}"
                loss = f"{statistics.mean(losses):.3f}, {statistics.stdev(losses):.3f}"
                other = kinds.get("sorted", {}).get(about, {}) if kind not in ("sorted", "size") else {}
                both = [seed for seed in seeds if seed in other]
                more = interval([100 * (seeds[seed][0] - other[seed][0]) for seed in both])
                losses_more = interval([seeds[seed][1] - other[seed][1] for seed in both], digits=3)
                about_seeds = f"{len(seeds)} | {accuracy}, {100 * min(right):.1f} | {loss}"
                print(f"| {cell} | {kind} | {about} | {about_seeds} | {more} | {losses_more} |")


if __name__ == "__main__":
    main()
