"""Run directories made by hand, as heft train would write them."""

import json
from pathlib import Path

from heft.results.metrics import measure
from heft.results.records import Record, write_records
from heft.results.summary import StageSummary
from heft.run.directory import RUN_FORMAT

TRAINED = {"seconds": 10.0, "flops": 2e9, "plain_flops": 4e9, "tokens": 100, "trainable_parameters": 50}
TRAINED |= {"stored_parameters": 60, "peak_bytes": 1000, "steps": 20}


def records(answers, groups=None, prompt="00000000", gold=0):
    """Records of two-choice questions q0, q1, … of which `answers` says whether each is answered rightly."""
    made = []
    for number, right in enumerate(answers):
        prediction = gold if right else 1 - gold
        group = None if groups is None else f"t{groups[number]}"
        made.append(Record(f"q{number}", gold, prediction, bool(right), (-1.0, -1.5), group, prompt=prompt))
    return made


def make_run(path: Path, stages: dict, seed=0, recipe=None, manifest=None, summary=None) -> Path:
    """Write a run whose evaluations have the given records; `recipe`, `manifest` and `summary` change what is in them.

    Args:
        stages: name ("base" or a stage's) → its records.
    """
    (path / "records").mkdir(parents=True)
    names = [name for name in stages if name != "base"] or ["fine"]
    written = {"name": "t", "seed": seed, "task": {"name": "boolq"}, "evaluation": {"normalize": "none"}}
    written |= {"output": str(path), "stages": {name: {"method": "lora", "rank": 4} for name in names}}
    (path / "recipe.yaml").write_text(json.dumps(written | (recipe or {})))  # JSON is YAML
    (path / "manifest.json").write_text(json.dumps({"format": RUN_FORMAT} | (manifest or {})))
    entries = []
    for name, made in stages.items():
        write_records(path / "records" / f"{name}.jsonl", made)
        metrics = measure(made)
        entry = StageSummary.of(name, metrics, **(TRAINED if name != "base" else {})).model_dump(mode="json")
        entries.append(entry | (summary or {}))
    (path / "summary.json").write_text(json.dumps({"stages": entries}))
    return path
