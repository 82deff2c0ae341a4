"""Run directories made by hand, without a model, for the report's tests."""

import json
import random
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML
from safetensors.numpy import save_file

from heft.recipe.recipe import Recipe
from heft.results.metrics import measure
from heft.results.records import Record, write_records
from heft.tasks import load_examples

HOSTILE = "<script>document.title='run'</script>"


def recipe_for(folder: Path, name: str, seed: int, rank: int, questions: int) -> Recipe:
    """A recipe over rows of our own, whose texts try to be markup."""
    rows = [
        {"question": f"{HOSTILE} Is {i} even? Answer:", "choices": ["yes", "no"], "answer": i % 2}
        for i in range(questions)
    ]
    file = folder / "rows.jsonl"
    if not file.exists():
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Recipe.model_validate(
        {
            "name": name,
            "seed": seed,
            "model": {"name": HOSTILE},
            "task": {"name": "rows", "train": str(file), "eval": str(file), "format": "cloze"},
            "stages": {
                "coarse": {"method": "lora", "steps": 4},
                "fine": {"method": "reft", "steps": 4, "rank": rank, "positions": "l2"},
            },
        }
    )


def write_run(path: Path, *, seed: int = 0, rank: int = 2, skill: float = 0.9, questions: int = 40) -> Path:
    """A finished run whose last model is right in about `skill` of the questions."""
    recipe = recipe_for(path.parent, path.name, seed, rank, questions)
    (path / "records").mkdir(parents=True)
    with (path / "recipe.yaml").open("w") as file:
        YAML().dump(recipe.model_dump(mode="json"), file)
    manifest = {"format": 1, "heft_version": "0", "seed": seed, "base": {"name": HOSTILE, "fingerprint": "f"}}
    (path / "manifest.json").write_text(json.dumps(manifest))
    examples = load_examples(recipe.task, "eval")
    entries, metrics = [], []
    for place, (stage, share) in enumerate((("base", 0.5), ("coarse", (0.5 + skill) / 2), ("fine", skill))):
        records = make_records([e.id for e in examples], [e.gold for e in examples], share, f"{seed}{stage}{rank}")
        write_records(path / "records" / f"{stage}.jsonl", records)
        entries.append(entry(stage, records, place))
        if place:
            losses = (3.0 / (step + place) for step in range(4))
            metrics += [{"stage": stage, "step": step, "loss": loss} for step, loss in enumerate(losses, 1)]
    (path / "summary.json").write_text(json.dumps({"stages": entries}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    write_adapter(path / "adapter", rank)
    return path


def make_records(ids, golds, share, seed) -> list[Record]:
    """Binary answers, right in about that share of cases."""
    rng, records = random.Random(seed), []
    for example_id, gold in zip(ids, golds, strict=True):
        answer = gold if rng.random() < share else 1 - gold
        scores = tuple(-0.2 - rng.random() / 9 if choice == answer else -1.8 for choice in (0, 1))
        records.append(Record(example_id, gold, answer, answer == gold, scores, prompt="00000000"))
    return records


def entry(stage: str, records: list[Record], place: int) -> dict:
    """A stage's part of summary.json."""
    measured = measure(records)
    trained = place > 0
    return {
        "name": stage,
        **{key: getattr(measured, key) for key in ("accuracy", "interval", "n", "balanced_accuracy", "majority")},
        "predictions": measured.predictions,
        "trainable_parameters": 100 * place,
        "seconds": 10.0 * place,
        "evaluation_seconds": 1.0,
        "steps": 4 * trained,
        "tokens": 1000 * trained,
        "flops": 1e9 * place,
        "plain_flops": 2e9 * place,
        "stored_parameters": 100 * place,
        "peak_bytes": 10**8 if trained else None,
        "ended": "planned",
        "labels": ["yes", "no"],
        "ended_because": "it took its 4 planned steps." if trained else None,
    }


def write_adapter(folder: Path, rank: int, hidden_size: int = 8, layers: int = 3) -> None:
    """A LoReFT adapter of random weights."""
    rng = np.random.default_rng(0)
    (folder / "fine").mkdir(parents=True)
    (folder / "heft.json").write_text(json.dumps({"adapters": [{"name": "fine", "method": "reft", "stage": "fine"}]}))
    config = {"intervention": "loreft", "activation": None, "rank": rank}
    (folder / "fine" / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for layer in range(layers):
        unit = f"base_model.model.model.layers.{layer}.reft.reft_last"
        tensors[f"{unit}.bias"] = rng.normal(size=rank).astype(np.float32)
        tensors[f"{unit}.rotation"] = rng.normal(size=(rank, hidden_size)).astype(np.float32)
        tensors[f"{unit}.weight"] = rng.normal(size=(rank, hidden_size)).astype(np.float32)
    save_file(tensors, folder / "fine" / "adapter_model.safetensors")
