"""What a recipe with the defaults reaches, against the defaults that heft had before, on four kinds of data.

    python benchmarks/defaults.py run --data DIR --rows 100 1000 --results FILE [--workers N]
    python benchmarks/defaults.py table FILE... > docs/defaults-table.md

DIR holds `<name>_train.jsonl` and `<name>_test.jsonl` for every name in `DATA`: agnews (text, label), banking77 (text,
intent), arc_easy (question, choices, answer) and e2e (prompt, completion). Each cell is trained with seeds 0 to 2,
which also choose the training rows; both arms have the same rows. A result that is in FILE already is not made again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

DATA = {
    "agnews": ("4 labels", {"prompt": "Text: {text}\nLabel:", "answer": "label", "choices": "labels"}),
    "banking77": ("77 labels", {"prompt": "Text: {text}\nIntent:", "answer": "intent", "choices": "labels"}),
    "arc_easy": ("multiple choice", {}),
    "e2e": ("completion", {"max_new_tokens": 128}),
}
SEEDS = (0, 1, 2)
BEFORE = {
    "coarse": {"method": "lora", "epochs": 1, "learning_rate": 2e-4},
    "fine": {"method": "reft", "epochs": 1, "learning_rate": 1e-3},
}
NOW = {"coarse": {"method": "lora"}, "fine": {"method": "reft", "positions": "l4"}}
"""What `heft init` writes."""
DRAWS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--data", type=Path, required=True)
    run.add_argument("--rows", type=int, nargs="+", default=[100, 1000])
    run.add_argument("--only", nargs="+", choices=list(DATA), default=list(DATA))
    run.add_argument("--results", type=Path, required=True)
    run.add_argument("--workers", type=int, default=1)
    run.add_argument("--seconds", type=float, default=float("inf"), help="start no run after so many")
    table = commands.add_parser("table")
    table.add_argument("results", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "table":
        print(table_of([json.loads(line) for path in options.results for line in path.read_text().splitlines()]))
    else:
        run_all(options)


def recipe_of(data: Path, name: str, rows: int, arm: str, seed: int, output: str) -> dict:
    """A recipe of one run; before, choices were letters where the alphabet allows."""
    settings = DATA[name][1]
    choice_format = "cloze" if arm == "now" or name in ("banking77", "e2e") else "letters"
    task = {
        "name": "rows",
        "train": str(data / f"{name}_train.jsonl"),
        "eval": str(data / f"{name}_test.jsonl"),
        "train_limit": rows,
        "sample_seed": seed,
        "format": choice_format,
        **settings,
    }
    stages = NOW if arm == "now" else BEFORE
    normalize = "bytes" if arm == "now" and name == "arc_easy" else "none"
    return {
        "name": "d",
        "task": task,
        "stages": stages,
        "evaluation": {"batch_size": 32, "normalize": normalize},
        "allow": ["train_in_eval"],  # ARC has a question in train and test (docs/checks.md)
        "seed": seed,
        "output": output,
    }


def run_all(options: argparse.Namespace) -> None:
    """Train what is missing, the longest first."""
    done = options.results.read_text().splitlines() if options.results.exists() else []
    there = {tuple(json.loads(line)["cell"]) for line in done}
    cells = [(n, r, a, s) for r in options.rows for s in SEEDS for n in options.only for a in ("now", "before")]
    cells = sorted((cell for cell in cells if cell not in there), key=lambda c: (-c[1], c[2] != "now", c[3]))
    begun = time.monotonic()

    def one(cell: tuple) -> None:
        if time.monotonic() - begun < options.seconds:
            result = trained(options.data.resolve(), cell)
            with options.results.open("a") as file:
                file.write(json.dumps(result) + "\n")

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(one, cells))


def trained(data: Path, cell: tuple) -> dict:
    """A run's figures: of each stage the accuracy or the likeness of texts, and which rows were right in the end."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(json.dumps(recipe_of(data, *cell, str(output))))
        command = [sys.executable, "-m", "heft", "train", str(recipe)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if done.returncode:
            return {"cell": cell, "error": (done.stdout + done.stderr)[-800:]}
        stages = json.loads((output / "summary.json").read_text())["stages"]
        keys = ("name", "accuracy", "chrf", "rouge_l", "loss", "seconds", "steps")
        manifest = json.loads((output / "manifest.json").read_text())
        records = (output / "records" / "fine.jsonl").read_text().splitlines()
        scores = [json.loads(record)["correct"] for record in records]
        if stages[-1].get("chrf") is not None:
            scores = _chrf_of(records)
        shown = [{key: stage[key] for key in keys if stage.get(key) is not None} for stage in stages]
        return {"cell": cell, "device": manifest["device"], "stages": shown, "scores": [float(s) for s in scores]}


def _chrf_of(records: list[str]) -> list[float]:
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    parsed = [json.loads(record) for record in records]
    return [metric.sentence_score(each["text"] or "", [str(each["gold"])]).score / 100 for each in parsed]


def table_of(results: list[dict]) -> str:
    """Markdown: a line a cell, means over seeds, and the difference with a bootstrap interval over seeds and rows."""
    found = {tuple(each["cell"]): each for each in results if "scores" in each}
    lines = [
        "| data | kind | rows | seeds | base | before | now | difference (95 %) | training, s: before, now | device |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (kind, _) in DATA.items():
        for rows in sorted({cell[1] for cell in found}):
            seeds = [s for s in SEEDS if all((name, rows, a, s) in found for a in ("before", "now"))]
            if seeds:
                arms = {a: [found[name, rows, a, s] for s in seeds] for a in ("before", "now")}
                lines.append(_line(name, kind, rows, arms))
    return "\n".join(lines)


def _line(name: str, kind: str, rows: int, arms: dict[str, list[dict]]) -> str:
    scores = {arm: np.array([each["scores"] for each in runs]) for arm, runs in arms.items()}
    change = scores["now"] - scores["before"]
    rng = np.random.default_rng(0)
    seeds, count = change.shape
    draws = [change[rng.integers(seeds, size=seeds)][:, rng.integers(count, size=count)].mean() for _ in range(DRAWS)]
    low, high = np.percentile(draws, [2.5, 97.5])
    first = arms["now"][0]["stages"][0]
    base = first["chrf"] if "chrf" in first else first["accuracy"]
    seconds = [
        np.mean([sum(stage.get("seconds", 0) for stage in run["stages"]) for run in arms[arm]])
        for arm in ("before", "now")
    ]
    means = " | ".join(f"{100 * scores[arm].mean():.1f}" for arm in ("before", "now"))
    difference = f"{100 * change.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    cells = [name, kind, f"{rows:,}", str(seeds), f"{100 * base:.1f}", means, difference]
    cells += [f"{seconds[0]:.0f}, {seconds[1]:.0f}", arms["now"][0]["device"]]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
