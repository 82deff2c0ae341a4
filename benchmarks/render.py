"""Rows in token ids, and a model folder that every version of transformers reads; made once, for all sides.

Run by heft's own Python: `python render.py MODEL ROWS FOLDER COUNT SEED` (see render_call.py).
"""

import json
import random
import shutil
import sys
from pathlib import Path

from render_call import MADE_UP

SMALL_MODEL = "random:tiny-llama"


def main(model: str, source: str, folder: Path, count: int, seed: int) -> None:
    """Write `model/`, `train.jsonl` and `evaluation.jsonl` to the folder, and `about.json` that says what they are."""
    from heft.data.encode import Encoder
    from heft.edits.positions import Positions
    from heft.tasks import load_examples

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _write_model(model, folder / "model")
    task = _task(source, count, seed)
    train = load_examples(task, "train")
    random.Random(seed).shuffle(train)
    evaluation = _whole_groups(load_examples(task, "eval"), count, seed)
    encode = Encoder(tokenizer, task.max_length, positions=[Positions(first=7, last=7)])
    for name, rows in (("train", train), ("evaluation", evaluation)):
        rows = _numbers(encode(rows))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {"data": task.name, "model": model.rpartition(":")[2], "config": _sizes(folder / "model")}
    (folder / "about.json").write_text(json.dumps(about))


def _task(source: str, count: int, seed: int):
    from pydantic import TypeAdapter

    from heft.tasks import AnyTask

    if source == MADE_UP:
        settings = {"name": MADE_UP, "train_size": count, "eval_size": count, "people": 6, "moves": 20, "places": 8}
    else:
        settings = {"name": "boolq", "source": source, "train_limit": count, "sample_seed": seed}
    return TypeAdapter(AnyTask).validate_python(settings)


def _numbers(encoded: list) -> list[dict]:
    """Token ids of the rows; a passage, which heft's evaluation shares, is named by a number."""
    passages: dict[str, str] = {}
    return [
        {
            "prompt": list(row.prompt),
            "answer": list(row.answer),
            "choices": [list(choice) for choice in row.choices],
            "group": row.example.group and passages.setdefault(row.example.group, str(len(passages))),
        }
        for row in encoded
    ]


def _whole_groups(examples: list, count: int, seed: int) -> list:
    """About `count` examples, all of each passage that is taken, so that passages repeat as in the whole split."""
    groups: dict[str, list] = {}
    for example in examples:
        groups.setdefault(example.group or example.id, []).append(example)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    chosen: list = []
    for group in order:
        if len(chosen) >= count:
            break
        chosen += group
    return chosen


def _write_model(name: str, target: Path):
    """Copy the model to `target` with a config that old versions understand too; returns heft's tokenizer for it."""
    from heft.builtin import embedded_path, tiny_llama
    from heft.models.load import load_tokenizer
    from heft.recipe.model import ModelSettings

    tokenizer = load_tokenizer(ModelSettings(name=name))
    if not (target / "config.json").is_file():
        if name == SMALL_MODEL:
            tiny_llama().save_pretrained(target)
            tokenizer.save_pretrained(target)
        else:
            source = embedded_path(name) if name.startswith("embedded:") else Path(name)
            shutil.copytree(source, target, dirs_exist_ok=True)
        _speak_old_config(target / "config.json")
    return tokenizer


def _speak_old_config(path: Path) -> None:
    """Say the rotary base and the number format in transformers 4's words too, which it would else take by default."""
    config = json.loads(path.read_text())
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    config["torch_dtype"] = config["dtype"]
    path.write_text(json.dumps(config, indent=2))


def _sizes(folder: Path) -> dict:
    config = json.loads((folder / "config.json").read_text())
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    return {name: config[name] for name in (*names, "vocab_size")}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
