"""`heft tune` against a grid of the same arms and values, one run after the other.

    python benchmarks/tune_against_grid.py grid --search DIR --out OUT [--epochs 3]
    python benchmarks/tune_against_grid.py study --search DIR --out OUT [--seeds 3]
    python benchmarks/tune_against_grid.py table --search DIR --out OUT

DIR is a finished search of any budget (its recipe and lists are taken, and what it found). The grid is what a person
would run without a search: all combinations of the lists for LoRA and for ReFT; behind the best LoRA all ReFT stages
and all second LoRA stages; both at once with all pairs of rates and the other settings of the best LoRA and the best
ReFT. Each is a plain run of so many epochs, with the search's validation rows held out, and the best has the lowest
validation loss, −ln p (a search chooses by expected errors where there are choices). Only the seconds of its stages
count, training and validation; loading, checks and evaluation do not. A grid goes on where it was stopped. `study`
trains what either of them found on all rows with several seeds and compares them on the evaluation split (`heft
compare`).
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heft.data.rows import read_data
from heft.models.load import load_base
from heft.recipe.files import load_recipe, resolved
from heft.recipe.recipe import KINDS, Recipe
from heft.recipe.tune import templates
from heft.run.train import train
from heft.runtime.reporter import Reporter
from heft.settings.files import to_yaml
from heft.tune.space import resolved_space, settings_of
from heft.tune.trial import file_name

RESULTS = Path(__file__).parent / "tune_against_grid_results.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("grid", "study", "table"))
    parser.add_argument("--search", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    {"grid": grid, "study": study, "table": table}[options.what](options)


class Grid:
    """Runs, each of which is a line of OUT/grid.jsonl once it is finished."""

    def __init__(self, options: argparse.Namespace):
        self.recipe = load_recipe(options.search / "recipe.yaml")
        found = json.loads((options.search / "tune.json").read_text())
        self.holdout = next(iter(found["arms"][0]["best"]["stages"].values()))["holdout"]
        self.path, self.folder, self.epochs = options.out / "grid.jsonl", options.out / "runs", options.epochs
        parameters = load_base(self.recipe.model).model.num_parameters()
        data = read_data(resolved(self.recipe), Reporter(), [])
        shortest = min(len(row.prompt) for row in [*data.train, *data.eval])
        tune = settings_of(resolved_space(self.recipe, parameters, shortest))  # only positions that all prompts have
        self.lists = {method: getattr(tune, method) for method in KINDS}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.done = {line["name"]: line for line in map(json.loads, lines)}
        self.begun: dict[str, int] = {}

    def stage(self, method: str, values: dict[str, Any]) -> dict[str, Any]:
        """A stage of the recipe's template with these values, as a recipe has it."""
        given = templates(self.recipe.stages, KINDS)[method].model_dump(exclude_unset=True, by_alias=True)
        return given | {"method": method, "epochs": self.epochs, **values}

    def combinations(self, method: str) -> Iterator[dict[str, Any]]:
        lists = self.lists[method]
        return (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))

    def run(self, arm: str, stages: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Train these stages, and note what they took and the validation loss at the end of the last one."""
        name = f"{file_name(arm)}-{self.begun.setdefault(arm, 0)}"
        self.begun[arm] += 1
        if name not in self.done:
            for stage in stages.values():
                stage |= {} if stage.get("from") else {"holdout": self.holdout}
            output = self.folder / name
            given = {"name": name, "stages": stages, "tune": None, "output": str(output)}
            given["task"] = self.recipe.task.model_dump(mode="json", exclude_unset=True) | {"eval_limit": 8}
            own = self.recipe.model_dump(mode="json", exclude_unset=True, by_alias=True) | given
            recipe = Recipe.model_validate(own)
            train(recipe, resume=True)
            summary = json.loads((output / "summary.json").read_text())
            metrics = map(json.loads, (output / "metrics.jsonl").read_text().splitlines())
            losses = [line["eval_loss"] for line in metrics if line.get("eval_loss") is not None]
            line = {
                "name": name,
                "arm": arm,
                "loss": losses[-1] if losses else None,
                "seconds": sum(stage["seconds"] for stage in summary["stages"]),
                "stages": stages,
            }
            with self.path.open("a") as file:
                print(json.dumps(line), file=file, flush=True)
            print(name, f"{line['seconds']:.0f} s, loss {line['loss']}", flush=True)
            self.done[name] = line
        return self.done[name]

    def best(self, arm: str) -> dict[str, Any]:
        return lowest([line for line in self.done.values() if line["arm"] == arm])


def lowest(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Of those that did not diverge."""
    return min((line for line in lines if line["loss"] is not None), key=lambda line: line["loss"])


def grid(options: argparse.Namespace) -> None:
    """All runs."""
    runs = Grid(options)
    for values in runs.combinations("lora"):
        runs.run("lora", {"coarse": runs.stage("lora", values)})
    for values in runs.combinations("reft"):
        runs.run("reft", {"fine": runs.stage("reft", values)})
    best, edit = runs.best("lora"), runs.best("reft")["stages"]["fine"]
    below = {"from": str((runs.folder / best["name"] / "adapter").resolve()), "method": "lora"}
    for method in ("reft", "lora"):
        for values in runs.combinations(method):
            runs.run(f"lora+{method}", {"coarse": below, "fine": runs.stage(method, values)})
    joint(runs, best["stages"]["coarse"], edit)


def joint(runs: Grid, lora: dict[str, Any], reft: dict[str, Any]) -> None:
    """Both at once, with all pairs of rates."""
    own = {
        method: {key: stage[key] for key in runs.lists[method] if key != "learning_rate"}
        for method, stage in (("lora", lora), ("reft", reft))
    }
    common = {key: lora[key] for key in ("epochs", "batch_size") if key in lora}
    for first, second in itertools.product(*(runs.lists[method]["learning_rate"] for method in ("lora", "reft"))):
        rates = {"learning_rate": first, "reft_learning_rate": second}
        runs.run("joint", {"both": {"method": "joint", **common, **rates, **own}})


def study(options: argparse.Namespace) -> None:
    """What either found, on all rows, on the evaluation split."""
    found = lowest(list(Grid(options).done.values()))
    stages = {}
    for name, stage in found["stages"].items():
        stages[name] = {key: value for key, value in stage.items() if key != "holdout"}
    if stages.get("coarse", {}).get("from"):
        own = Grid(options).best("lora")["stages"]["coarse"]
        stages["coarse"] = {key: value for key, value in own.items() if key != "holdout"}
    recipe = load_recipe(options.search / "recipe.yaml").model_dump(mode="json", by_alias=True)
    (options.out / "grid.yaml").write_text(to_yaml({**recipe, "stages": stages, "tune": None, "name": "grid"}))
    arms = {"tune": {"recipe": str((options.search / "best.yaml").resolve())}, "grid": {"recipe": "grid.yaml"}}
    values = {"name": "tune-against-grid", "arms": arms, "seeds": list(range(options.seeds)), "base": True}
    path = options.out / "study.yaml"
    path.write_text(to_yaml({**values, "output": str((options.out / "study").resolve())}))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-m", "heft", "compare", str(path)], check=True, env=environment)


def studied(out: Path) -> dict[str, Any]:
    """Accuracies of what both found, and their difference, where `study` has been run."""
    path = out / "study" / "comparison.json"
    if not path.is_file():
        return {}
    compared = json.loads(path.read_text())
    accuracies = {arm["name"]: arm["accuracy"] for arm in compared["arms"]}
    pair = next(each for each in compared["pairs"] if {each["first"], each["second"]} == {"tune", "grid"})
    return {"study": {**accuracies, **{key: pair[key] for key in ("first", "second", "difference", "interval")}}}


def tried(line: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run's last stage."""
    stage = list(line["stages"].values())[-1]
    return {"arm": line["arm"], **{key: value for key, value in stage.items() if key not in ("method", "holdout")}}


def table(options: argparse.Namespace) -> None:
    """Seconds and lowest validation losses of both, by arm, which tune_against_grid_results.json has too."""
    lines = [json.loads(line) for line in (options.out / "grid.jsonl").read_text().splitlines()]
    found = json.loads((options.search / "tune.json").read_text())
    spent = sum(arm["spent"] for arm in found["arms"])
    runs = [{"seconds": line["seconds"], "loss": line["loss"], **tried(line)} for line in lines]
    arms = {arm["arm"]: {key: arm[key] for key in ("loss", "spent", "trials")} for arm in found["arms"]}
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    name = load_recipe(options.search / "recipe.yaml").name
    of_all = known.get(name, {"searches": {}})
    of_all |= {"grid": runs, "searches": of_all["searches"] | {found["budget"]: arms | studied(options.out)}}
    RESULTS.write_text(json.dumps(known | {name: of_all}, indent=1) + "\n")
    print("| arm | runs of the grid | seconds | lowest −ln p | what the search chose by (docs/tune.md) | seconds |")
    print("|---|---|---|---|---|---|")
    for arm in found["arms"]:
        own = [line for line in lines if line["arm"] == arm["arm"]]
        seconds = sum(line["seconds"] for line in own)
        best = f"{lowest(own)['loss']:.4f}" if own else "–"
        print(f"| {arm['arm']} | {len(own)} | {seconds:.0f} | {best} | {arm['loss']:.4f} | {arm['spent']:.0f} |")
    print(f"\nThe grid: {sum(line['seconds'] for line in lines):.0f} s; the search's arms: {spent:.0f} s")


if __name__ == "__main__":
    main()
