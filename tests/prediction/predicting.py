"""Runs of the tiny model on published tasks, from a folder of made-up rows."""

import json
from pathlib import Path

import heft
from heft.results.records import read_records
from tiny_recipe import write_recipe

STAGES = (
    "{coarse: {method: lora, rank: 2, steps: 2, batch_size: 4}, "
    "fine: {method: reft, rank: 2, positions: l1, steps: 2, batch_size: 4}}"
)
LETTERS = {"text": ["a pan", "an egg", "the sun"], "label": ["A", "B", "C"]}


def boolq(number):
    passage = f"Text {number // 2} says that it is so. " * 3
    return {"question": f"is it {number}", "passage": passage, "answer": number % 3 == 0}


def arc(number):
    return {"question": f"Which is number {number}?", "choices": LETTERS, "answerKey": "ABC"[number % 3]}


def gsm8k(number):
    return {"question": f"How much is {number} and one?", "answer": f"It is {number + 1}. #### {number + 1}"}


TASKS = {
    "boolq": ("{name: boolq, source: %s}", boolq, "answer"),
    "arc_easy": ("{name: arc_easy, source: %s}", arc, "answerKey"),
    "gsm8k": ("{name: gsm8k, source: %s, eval_split: validation, max_new_tokens: 6}", gsm8k, "answer"),
}


def trained(folder: Path, name: str, stages: str = STAGES):
    """A run on made-up rows: its directory, the evaluation rows, and the records of each evaluation."""
    text, make, _ = TASKS[name]
    rows = {"train": [make(i) for i in range(100, 112)], "validation": [make(i) for i in range(9)]}
    for split, some in rows.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    rest = f"output: {folder / 'run'}\nallow: [answers_cut]"
    path = write_recipe(folder, stages, rest, task=text % folder)
    run = heft.train(path).directory
    return run, rows["validation"], {p.stem: read_records(p) for p in (run / "records").iterdir()}
