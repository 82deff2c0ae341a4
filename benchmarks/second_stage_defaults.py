"""Which rate a second ReFT stage needs where nothing is tuned, behind a default first stage or a shorter one.

    python benchmarks/second_stage_defaults.py run --data DIR --tasks DIR --out OUT [--cells sst2-100 …] [--seeds 0 1]
        [--factors 1 0.3 0.1] [--first whole third half half_rows none]
    python benchmarks/second_stage_defaults.py table [--seeds 0 1]

In each cell (see two_stages.py) and with each seed: LoRA with the default rate, as long as the default says and shorter
(FIRST); on each, frozen, and on none, ReFT (`l4`) of the default length on all rows with the default rate and 0.3 and
0.1 of it.
`run` goes on where it was stopped, and adds to second_stage_defaults_results.json accuracies and seconds of training;
`table` has the difference of each to its own first stage, to one of default length, and to that with ReFT of the
default rate behind it, with t intervals over cells, of each of which the mean over its seeds counts. Nothing is chosen.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
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
NONE = "none"
"""In place of a first stage: ReFT alone."""


def main() -> None:
    parser = parser_of(__doc__, ["sst2-100", "agnews-100"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--factors", nargs="+", type=float, default=[1.0, 0.3, 0.1], help="of the default rate")
    parser.add_argument("--first", nargs="+", choices=[*FIRST, NONE], default=["whole", "third"], help="first stages")
    parser.add_argument("--eval-rows", type=int, default=400)
    options = parser.parse_args()
    if options.what == "table":
        table(json.loads(RESULTS.read_text()), list(map(str, options.seeds)))
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
        below, before = {}, 0.0
        if name != NONE:
            share, left = FIRST[name]
            coarse = {"method": "lora", "batch_size": batch, "epochs": epochs * share}
            if left:
                coarse |= {"holdout": left, "evaluate_every": 1_000_000}  # its validation loss is not asked for
            first = trained(common, seed, folder / name, {"coarse": coarse}, base_from)
            found[name] = figures(first)
            below, before = {"coarse": {"method": "lora", "from": str((first / "adapter").resolve())}}, found[name][1]
        for factor in options.factors:
            rate = float(f"{factor * rate_for('reft', PARAMETERS):.1g}")
            fine = {"method": "reft", "positions": "l4", "batch_size": batch, "learning_rate": rate}
            run = trained(common, seed, folder / f"{name}-{rate:g}", below | {"fine": fine}, base_from)
            accuracy, seconds = figures(run)
            found[f"{name} {rate:g}"] = [accuracy, before + seconds]
            print(cell, seed, name, rate, found.get(name), found[f"{name} {rate:g}"], flush=True)
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


def table(found: dict[str, dict[str, dict[str, list[float]]]], seeds: Sequence[str]) -> None:
    """Means over the cells that have it, of each the mean over these of its seeds."""
    by_cell = {cell: [runs[seed] for seed in seeds if seed in runs] for cell, runs in found.items()}
    by_cell = {cell: runs for cell, runs in by_cell.items() if runs}
    print(f"cells and their seeds: {', '.join(f'{cell} ({len(runs)})' for cell, runs in by_cell.items())}\n")
    default = f"whole {rate_for('reft', PARAMETERS):g}"
    head = f"points more than its first stage (95 %) | than `whole` | than `{default}` | seconds of `whole`'s"
    print(f"| stages | cells | accuracy, % | {head} |")
    print("|---|---|---|---|---|---|---|")
    for name in sorted({name for runs in by_cell.values() for run in runs for name in run}):
        of_cells = [[run[name] for run in runs if name in run] for runs in by_cell.values()]
        accuracy = statistics.mean(statistics.mean(a for a, _ in runs) for runs in of_cells if runs)
        more = [points_more(by_cell.values(), name, other) for other in (name.split()[0], "whole", default)]
        having = [run for runs in by_cell.values() for run in runs if {name, "whole"} <= run.keys()]
        ratio = statistics.median(run[name][1] / run["whole"][1] for run in having)
        cells = sum(map(bool, of_cells))
        print(f"| {name} | {cells} | {100 * accuracy:.1f} | {' | '.join(more)} | {ratio:.2f} |")


def points_more(by_cell: Iterable[Sequence[dict[str, list[float]]]], name: str, other: str) -> str:
    """Of one over another, with its interval over cells; "" where no cell has both, or they are one."""
    pairs = [[run for run in runs if name in run and other in run] for runs in by_cell]
    means = [statistics.mean(100 * (run[name][0] - run[other][0]) for run in runs) for runs in pairs if runs]
    return "" if name == other or not means else interval(means)


if __name__ == "__main__":
    main()
