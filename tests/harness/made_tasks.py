"""Rows as heft's own tasks read them, and the same rows as local YAML tasks of lm-evaluation-harness.

`boolq`: choices of one word behind passages that several questions share; `piqa`: choices of many tokens, of unlike
length. Prompts and choices are the same texts in both programs.
"""

import json
from pathlib import Path

from heft.tasks.boolq import BoolqSettings
from heft.tasks.piqa import PiqaSettings

PASSAGES = (
    "The hall of the old house is on the ground floor, and its door has been green since 1912.",
    "Mary went to the garden. John went to the kitchen, and took the milk with him.",
    "Rain is water that falls from clouds in drops.",
)
QUESTIONS = ("is the door of the hall green", "did john take the milk", "is it cold")
GOALS = (
    ("keep bread fresh", "Put it in a box with a lid.", "Leave it in the rain, and wait."),
    ("open a jar", "Warm the lid under the tap and turn.", "Turn."),
    ("dry a shirt", "Hang it in the sun", "Put it into the river for a day"),
    ("write a letter", "Use a pen.", "Use a spoon, and a plate, and a knife."),
    ("cool a room", "Open the window at night.", "Light a fire in the oven."),
)
BOOLQ_YAML = r"""
task: own_boolq
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/boolq/validation.jsonl}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{passage}}\nQuestion: {{question}}?\nAnswer:"
doc_to_target: "{{answer|int}}"
doc_to_choice: ["no", "yes"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
PIQA_YAML = r"""
task: own_piqa
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/piqa/validation.jsonl}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "Question: {{goal}}\nAnswer:"
doc_to_target: label
doc_to_choice: "{{[sol1, sol2]}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
ROLLING_YAML = r"""
task: own_texts
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/boolq/validation.jsonl}}
output_type: loglikelihood_rolling
validation_split: validation
doc_to_text: ""
doc_to_target: "{{passage}}"
metric_list: [{metric: bits_per_byte}]
"""
GENERATED_YAML = r"""
task: own_generated
dataset_path: json
dataset_kwargs: {data_files: {validation: FOLDER/piqa/validation.jsonl}}
output_type: generate_until
validation_split: validation
doc_to_text: "Question: {{goal}}\nAnswer:"
doc_to_target: "{{sol1}}"
generation_kwargs: {until: ["\n"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def write_tasks(folder: Path) -> Path:
    """Write rows and YAML tasks (own_boolq, own_piqa, own_texts, own_generated); returns the folder."""
    asked = [(passage, question) for passage in PASSAGES for question in QUESTIONS]
    boolq = [
        {"passage": passage, "question": question, "answer": number % 3 == 0}
        for number, (passage, question) in enumerate(asked)
    ]
    piqa = [{"goal": g, "sol1": a, "sol2": b, "label": number % 2} for number, (g, a, b) in enumerate(GOALS)]
    for name, rows in (("boolq", boolq), ("piqa", piqa)):
        (folder / name).mkdir(parents=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        for split in ("train", "validation"):
            (folder / name / f"{split}.jsonl").write_text(text, encoding="utf-8")
    yaml = {"boolq": BOOLQ_YAML, "piqa": PIQA_YAML, "texts": ROLLING_YAML, "generated": GENERATED_YAML}
    for name, text in yaml.items():
        (folder / f"own_{name}.yaml").write_text(text.replace("FOLDER", str(folder)), encoding="utf-8")
    return folder


def own_settings(folder: Path) -> dict[str, BoolqSettings | PiqaSettings]:
    """heft's tasks of the same rows, by the name of the harness's task."""
    return {
        "own_boolq": BoolqSettings(source=str(folder / "boolq")),
        "own_piqa": PiqaSettings(source=str(folder / "piqa"), format="cloze"),
    }
