"""What came of benchmarks/two_stages.py, from two_stages_results: a table in Markdown, or a figure.

    python benchmarks/two_stages_map.py table
    python benchmarks/two_stages_map.py figure > docs/two_stages.svg
    python benchmarks/two_stages_map.py settings

`table` has a line a cell: the accuracy of every arm; two stages against the best single method, with the paired
difference, its interval and the p-value of the study (Holm within a cell); the arms within a point of the best, the
fastest first. `figure` draws the differences. `settings` is what the search chose for each arm. Folders within
two_stages_results are no cells of the map: another model, a search with more time, an earlier one, and data that no arm
has learned (docs/log.md).
"""

import argparse
import json
from dataclasses import dataclass

from two_stages import RESULTS

from heft.text.svg import BOTTOM, RIGHT, TOP, Axis, Drawing, axis

SINGLE, TWO = ("lora", "reft"), "lora-reft"
NAMES = {
    "base": "base",
    "lora": "LoRA",
    "reft": "ReFT",
    "lora-reft": "LoRA, then ReFT",
    "lora-lora": "LoRA, then LoRA",
    "joint": "both at once",
}
SETS = {
    "agnews": "AG News",
    "arc_easy": "ARC-easy",
    "banking77": "Banking77",
    "boolq": "BoolQ",
    "siqa": "SIQA",
    "sst2": "SST-2",
}
ROW = 34
"""Of the figure, for a cell."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("table", "figure", "settings"))
    what = parser.parse_args().what
    print({"table": table, "figure": figure, "settings": settings}[what](finished()), end="")


@dataclass(frozen=True)
class Cell:
    """A data set and a number of rows, and what came of it."""

    name: str
    result: dict

    @property
    def arms(self) -> dict[str, dict]:
        return {arm["name"]: arm for arm in self.result["arms"]}

    @property
    def single(self) -> str:
        """The better one of LoRA and ReFT."""
        return max((name for name in SINGLE if name in self.arms), key=lambda name: self.arms[name]["accuracy"])

    @property
    def pair(self) -> dict:
        """Two stages and that one."""
        return next(each for each in self.result["pairs"] if {each["first"], each["second"]} == {self.single, TWO})

    @property
    def difference(self) -> tuple[float, float, float]:
        """Of two stages to that one in points, and the ends of its interval."""
        sign = 100 if self.pair["first"] == TWO else -100
        low, high = sorted(sign * end for end in self.pair["interval"])
        return sign * self.pair["difference"], low, high

    def percent(self, name: str) -> str:
        return f"{100 * self.arms[name]['accuracy']:.1f}" if name in self.arms else "–"

    @property
    def fastest(self) -> str:
        """Arms within a point of the best one, and what their training took."""
        trained = [arm for name, arm in self.arms.items() if name != "base"]
        best = max(arm["accuracy"] for arm in trained)
        near = [arm for arm in trained if arm["accuracy"] >= best - 0.01]
        near.sort(key=lambda arm: arm["costs"]["seconds"])
        costs = [(NAMES[arm["name"]], arm["costs"]["seconds"], arm["costs"]["flops"] / 1e12) for arm in near]
        return "; ".join(f"{name} {seconds:.0f} s, {flops:.1f} TFLOP" for name, seconds, flops in costs)


def finished() -> list[Cell]:
    """All cells with a result, by data set and then by rows."""
    cells = [Cell(path.stem, json.loads(path.read_text())) for path in RESULTS.glob("*.json")]
    return sorted(cells, key=lambda cell: (cell.name.rpartition("-")[0], int(cell.name.rpartition("-")[2])))


def table(cells: list[Cell]) -> str:
    headings = ["cell", "rows evaluated, seeds", *NAMES.values(), "two stages against the best single one", "p, Holm"]
    headings.append("within a point of the best")
    lines = [headings, ["---"] * len(headings)]
    for cell in cells:
        arm = cell.arms[cell.single]
        two = ["–", "–"]
        if TWO in cell.arms:
            difference, low, high = (f"{value:+.1f}" for value in cell.difference)
            two = [f"{difference} ({low} to {high}), {NAMES[cell.single]}", f"{cell.pair['p_holm']:.2f}"]
        about = [cell.name, f"{arm['n']:,}, {len(arm['seeds'])}"]
        lines.append([*about, *map(cell.percent, NAMES), *two, cell.fastest])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(cells: list[Cell]) -> str:
    """Two stages against the best single one in each cell, with intervals, as an SVG file."""
    cells = [cell for cell in cells if TWO in cell.arms]
    ends = [value for cell in cells for value in (*cell.difference, 0.0)]
    x = axis("two stages less the better single method, points", ends)
    drawing = Drawing(x, Axis("", 0, len(cells)), TOP + BOTTOM + ROW * len(cells), left=RIGHT, y_axis=False)
    drawing.segment((0, 0), (0, len(cells)), "rule")
    for place, cell in enumerate(cells):
        difference, low, high = cell.difference
        y, kind = len(cells) - place - 0.75, "a" if low > 0 or high < 0 else "e"
        drawing.segment((low, y), (high, y), f"line {kind}")
        drawing.dot((difference, y), f"fill {kind}", 4)
        name, _, rows = cell.name.rpartition("-")
        accuracies = f"{NAMES[cell.single]} {cell.percent(cell.single)} %, two stages {cell.percent(TWO)} %"
        drawing.text(RIGHT, TOP + ROW * place + 10, f"{SETS.get(name, name)}, {int(rows):,} rows: {accuracies}")
    return drawing.file("Two stages against the better single method, by data set and training rows")


def settings(cells: list[Cell]) -> str:
    lines = ["| cell | arm | validation loss | chosen |", "|---|---|---|---|"]
    for cell in cells:
        for arm, found in cell.result["tuned"].items():
            stages = "; ".join(in_words(stage) for stage in found["stages"].values())
            lines.append(f"| {cell.name} | {arm} | {found['loss']:.4f} | {stages} |")
    return "\n".join([*lines, ""])


def in_words(stage: dict) -> str:
    steps = f"{stage['steps']} steps" + (f" of {stage['batch_size']} rows" if "batch_size" in stage else "")
    if stage["method"] == "joint":
        lora, reft = stage["lora"], stage["reft"]
        rates = f"rates {stage['learning_rate']:g} and {stage['reft_learning_rate']:g}"
        adapters = f"LoRA {lora['positions']}, rank {lora['rank']}, ReFT {reft['positions']}, rank {reft['rank']}"
        return f"joint, {steps}, {rates}, {adapters}"
    own = f"{steps}, rate {stage['learning_rate']:g}, {stage['positions']}, rank {stage['rank']}"
    return f"{NAMES[stage['method']]}, {own}"


if __name__ == "__main__":
    main()
