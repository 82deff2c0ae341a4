"""By which figure of a few validation rows a configuration is best chosen.

    python benchmarks/chosen_by.py run --data DIR --tasks DIR --out OUT [--cells sst2-100 …] [--seeds 3]
    python benchmarks/chosen_by.py table

In each cell (see two_stages.py) and with each seed, which draws other rows too, two sweeps: LoRA and ReFT of `l4+`,
of three rates and three lengths. Every configuration answers 400 rows that none was trained on. Then 500 times 50,
100 or 200 of these are drawn as validation rows: each figure chooses a configuration by them, and the other rows tell
how accurate it is. `run` goes on where it was stopped, and adds to chosen_by_results.json, by figure, how many points
the chosen one is below the best one of its sweep, in the mean of the draws; `table` has means over cells, seeds and
methods, and the differences to −ln p, with t intervals over these.
"""

import argparse
import json
import math
from pathlib import Path
from unittest.mock import patch

import numpy as np
from second_stage import interval, parser_of
from two_stages import recipe_of

from heft.data.encode import EncodedExample
from heft.evaluation.expected_errors import probabilities
from heft.recipe.recipe import Recipe
from heft.sweep import run as sweep_run
from heft.sweep.training import SideBySide

RESULTS = Path(__file__).parent / "chosen_by_results.json"
HELD_OUT, DRAWN, DRAWS = 400, (50, 100, 200), 500
STAGES = {
    "lora": ({"method": "lora", "positions": "l4+", "rank": 8}, [3e-4, 1e-3, 3e-3]),
    "reft": ({"method": "reft", "positions": "l4+", "rank": 4}, [6e-4, 2e-3, 6e-3]),
}
EPOCHS = {100: [1, 4, 12], 300: [1, 3, 8]}
LEAST = 1e-300
"""A probability of 0 counts as this one."""
FIGURES = ("−ln p by token", "−ln p among choices", "Brier", "1 − p", "wrong answers")


def main() -> None:
    parser = parser_of(__doc__, ["sst2-100", "agnews-100", "sst2-300", "agnews-300", "arc_easy-300"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.what == "table":
        table(json.loads(RESULTS.read_text()))
        return
    for seed in range(options.seeds):
        for cell in options.cells:
            for method in STAGES:
                found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
                by_row = rows_of(cell, seed, method, options)
                found.setdefault(cell, {}).setdefault(method, {})[str(seed)] = {"accuracy": by_row["accuracies"]} | {
                    str(count): regrets(by_row["figures"], count) for count in DRAWN
                }
                RESULTS.write_text(json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
                print(cell, seed, method, json.dumps(found[cell][method][str(seed)]), flush=True)


def rows_of(cell: str, seed: int, method: str, options: argparse.Namespace) -> dict:
    """Every figure of each configuration and held-out row of one sweep; kept as a file of OUT."""
    folder = options.out / f"{cell}-{method}-{seed}"
    kept = folder.with_suffix(".json")
    if kept.is_file():
        return json.loads(kept.read_text())
    common = recipe_of(cell, argparse.Namespace(data=options.data, tasks=options.tasks, eval_rows=8))
    rows = common["task"]["train_limit"]
    common["task"]["train_limit"] = rows + HELD_OUT
    stage, rates = STAGES[method]
    grid = {"learning_rate": rates, "epochs": EPOCHS[rows]}
    own = {"stages": {"fine": stage | {"batch_size": 8}}, "seed": seed, "output": str(folder)}
    own["sweep"] = {"holdout": HELD_OUT / (rows + HELD_OUT), "grid": grid}
    found: list[dict] = []

    def rank(training: SideBySide, normalize: str) -> list:
        found.append(measured(training, normalize))
        return ranked(training, normalize)

    ranked = sweep_run.rank
    with patch.object(sweep_run, "rank", rank):
        sweep_run.sweep(Recipe.model_validate(common | own), overwrite=True)
    kept.write_text(json.dumps(found[0]))
    return found[0]


def measured(training: SideBySide, normalize: str) -> dict:
    """What `rows_of` returns: figures is (figure, configuration, row), lower is better."""
    forward = training.forward
    examples = [forward.examples[row] for row in training.validation]
    sound = [learner.number for learner in training.learners if not learner.diverged]
    wanted = [
        (number, row, choice)
        for row, example in zip(training.validation, examples, strict=True)
        for choice in dict.fromkeys(example.choices)
        for number in sound
    ]
    costs = dict(zip(wanted, training.retrying.measure([forward.item(*key) for key in wanted]), strict=True))
    table = [
        [figures_of(costs, number, row, forward.examples[row], normalize) for row in training.validation]
        for number in sound
    ]
    figures = np.array(table).transpose(2, 0, 1)
    return {"figures": figures.tolist(), "accuracies": (1 - figures[-1].mean(1)).tolist()}


def figures_of(costs: dict, number: int, row: int, example: EncodedExample, normalize: str) -> tuple[float, ...]:
    """The figures of one row: of FIGURES, in their order; of choices as heft.evaluation.expected_errors has them."""
    p = np.array(probabilities(example, [-costs[number, row, choice] for choice in example.choices], normalize))
    gold = example.example.gold
    return (
        costs[number, row, example.answer] / len(example.answer),
        -math.log(max(p[gold], LEAST)),
        ((p - np.eye(len(p))[gold]) ** 2).sum(),
        1 - p[gold],
        float(p.argmax() != gold),
    )


def regrets(figures: list, count: int) -> list[float]:
    """By figure, the mean points of accuracy that a choice by so many rows loses to the best one on the others."""
    values = np.array(figures)
    random = np.random.default_rng(0)
    lost = np.zeros(len(values))
    for _ in range(DRAWS):
        order = random.permutation(values.shape[2])
        found, others = values[:, :, order[:count]].mean(2), values[-1][:, order[count:]].mean(1)
        found[-1] += 1e-6 * found[-2]  # of equal numbers of wrong answers, the lowest 1 − p decides
        lost += 100 * (others[found.argmin(1)] - others.min())
    return (lost / DRAWS).tolist()


def table(found: dict) -> None:
    """Points that a choice loses, by figure and number of validation rows."""
    sweeps = [each for cell in found.values() for method in cell.values() for each in method.values()]
    print("| chosen by | " + " | ".join(f"{count} validation rows | against −ln p by token" for count in DRAWN) + " |")
    print("|---" * (1 + 2 * len(DRAWN)) + "|")
    for place, figure in enumerate(FIGURES):
        cells = []
        for count in DRAWN:
            lost = [each[str(count)][place] for each in sweeps]
            first = [each[str(count)][0] for each in sweeps]
            more = [one - other for one, other in zip(lost, first, strict=True)]
            cells += [f"{np.mean(lost):.2f}", interval(more, 2) if place else "–"]
        print(f"| {figure} | " + " | ".join(cells) + " |")
    print(f"\n{len(sweeps)} sweeps")


if __name__ == "__main__":
    main()
