"""Which rate a second ReFT stage needs where nothing is tuned, behind a default first stage or a shorter one.

    python benchmarks/second_stage_defaults.py run --data DIR --tasks DIR --out OUT [--cells sst2-100 …] [--seeds 0 1]
        [--factors 1 0.3 0.1] [--first whole third half half_rows]
    python benchmarks/second_stage_defaults.py table

In each cell (see two_stages.py) and with each seed: LoRA with the default rate, as long as the default says and shorter
(FIRST); on each, frozen, ReFT (`l4`) of the default length on all rows with the default rate and 0.3 and 0.1 of it.
`run` goes on where it was stopped, and adds to second_stage_defaults_results.json accuracies and seconds of training;
`table` has the difference of each to its own first stage, to one of default length, and to that with ReFT of the
default rate behind it, with t intervals over cells and seeds. Nothing is chosen in it.
"""

import argparse
import json
import statistics
from pathlib import Path

from second_stage import interval, parser_of
from two_stages import recipe_of

from heft.recipe.defaults import epochs_for, rate_for
from heft.recipe.recipe import Recipe
from heft.run.train import train

RESULTS = Path(__file__).parent / "second_stage_defaults_results.json"
PARAMETERS = 135_000_000
FIRST = {"whole": (1.0, 0.0), "third": (1 / 3, 0.0), "half": (1 / 2, 0.0), "half_rows": (1.0, 0.5)}
"""Share of the default epochs, and of the rows that a first stage leaves to the second, which so has some that are
new."""


def main() -> None:
    parser = parser_of(__doc__, ["sst2-100", "agnews-100"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--factors", nargs="+", type=float, default=[1.0, 0.3, 0.1], help="of the default rate")
    parser.add_argument("--first", nargs="+", choices=FIRST, default=["whole", "third"], help="first stages")
    parser.add_argument("--eval-rows", type=int, default=400)
    options = parser.parse_args()
    if options.what == "table":
        table(json.loads(RESULTS.read_text()))
        return
    for seed in options.seeds:
        for cell in options.cells:
            found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
            known = found.setdefault(cell, {}).setdefault(str(seed), {})
            known |= cell_of(cell, seed, options)
            RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


def cell_of(cell: str, seed: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Accuracy and seconds of training of each first stage, and of each second one behind it."""
    common = recipe_of(cell, options)
    batch = common["stages"]["coarse"]["batch_size"]
    epochs = epochs_for(common["task"]["train_limit"], batch)
    folder = options.out / cell / f"seed-{seed}"
    found: dict[str, list[float]] = {}
    base_from = [folder / "whole"]
    for name in options.first:
        share, left = FIRST[name]
        coarse = {"method": "lora", "batch_size": batch, "epochs": epochs * share}
        if left:
            coarse |= {"holdout": left, "evaluate_every": 1_000_000}  # its validation loss is not asked for
        first = trained(common, seed, folder / name, {"coarse": coarse}, base_from)
        found[name] = figures(first)
        below = {"method": "lora", "from": str((first / "adapter").resolve())}
        for factor in options.factors:
            rate = float(f"{factor * rate_for('reft', PARAMETERS):.1g}")
            fine = {"method": "reft", "positions": "l4", "batch_size": batch, "learning_rate": rate}
            run = trained(common, seed, folder / f"{name}-{rate:g}", {"coarse": below, "fine": fine}, base_from)
            accuracy, seconds = figures(run)
            found[f"{name} {rate:g}"] = [accuracy, found[name][1] + seconds]
            print(cell, seed, name, rate, found[name], found[f"{name} {rate:g}"], flush=True)
    return found


def trained(common: dict, seed: int, folder: Path, stages: dict, base_from: list[Path]) -> Path:
    """The directory of a run of these stages; the base is evaluated once for those of a cell and seed."""
    recipe = Recipe.model_validate(common | {"stages": stages, "seed": seed, "output": str(folder)})
    train(recipe, resume=True, base_from=base_from)
    return folder


def figures(run: Path) -> list[float]:
    """Accuracy after the last stage, and its seconds of training."""
    last = json.loads((run / "summary.json").read_text())["stages"][-1]
    return [last["accuracy"], last["seconds"]]


def table(found: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """Means over the cells and seeds that have it."""
    runs = [configurations for cell in found.values() for configurations in cell.values()]
    print(
        f"{len(runs)} pairs of cell and seed: {', '.join(f'{cell} ({len(seeds)})' for cell, seeds in found.items())}\n"
    )
    default = f"whole {rate_for('reft', PARAMETERS):g}"
    head = f"points more than its first stage (95 %) | than `whole` | than `{default}`"
    print(f"| stages | runs | accuracy, % | seconds, median | {head} |")
    print("|---|---|---|---|---|---|---|")
    for name in sorted({name for run in runs for name in run}):
        having = [run for run in runs if name in run]
        accuracy = statistics.mean(run[name][0] for run in having)
        seconds = statistics.median(run[name][1] for run in having)
        more = [
            "" if name == other else interval([100 * (run[name][0] - run[other][0]) for run in having if other in run])
            for other in (name.split()[0], "whole", default)
        ]
        print(f"| {name} | {len(having)} | {100 * accuracy:.1f} | {seconds:.0f} | {' | '.join(more)} |")


if __name__ == "__main__":
    main()
