"""Whether lm-evaluation-harness with heft's model class gives what `heft eval` does, and HFLM on the base model.

    python benchmarks/harness_agreement.py --data FOLDER --work DIR > table.md

FOLDER has boolq/, arc_easy/ and piqa/ with train.jsonl and validation.jsonl. An adapter (LoRA, then ReFT at both ends
of the prompt) is trained on a few BoolQ rows. Each figure is kept in DIR, so that a script that was stopped goes on
where it was. One thread, float32: about an hour.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

MODEL = "embedded:smollm2-135m-instruct"
ROWS = {"boolq": 500, "arc_easy": 200, "piqa": 200}
BATCH_SIZES = (16, 8, 1)
RECIPE = """
name: agreement
model: {{name: "{model}", dtype: float32, device: cpu}}
task: {{name: boolq, source: "{source}", train_limit: 64, eval_limit: 8}}
stages:
  coarse: {{method: lora, rank: 8, steps: 4, batch_size: 8}}
  fine: {{method: reft, rank: 4, positions: f4+l4, steps: 8, batch_size: 8}}
"""
TASK = r"""
task: own_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {file}}}}}
output_type: multiple_choice
validation_split: validation
{texts}
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
TEXTS = {
    "boolq": r"""
doc_to_text: "{{passage}}\nQuestion: {{question}}?\nAnswer:"
doc_to_target: "{{answer|int}}"
doc_to_choice: ["no", "yes"]
""",
    "arc_easy": r"""
doc_to_text: "Question: {{question.strip()}}\nAnswer:"
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text | map('trim') | list}}"
""",
    "piqa": r"""
doc_to_text: "Question: {{goal.strip()}}\nAnswer:"
doc_to_target: label
doc_to_choice: "{{[sol1.strip(), sol2.strip()]}}"
""",
}
ASKED = {"boolq": "question", "arc_easy": "question", "piqa": "goal"}
OF_HEFT = {"boolq": [], "arc_easy": ["--set", "task.format=cloze"], "piqa": ["--set", "task.format=cloze"]}


def main() -> None:
    """Do what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    work = options.work.resolve()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    write_rows(options.data, work)
    adapter = work / "run"
    if not (adapter / "adapter" / "heft.json").is_file():
        (work / "recipe.yaml").write_text(RECIPE.format(model=MODEL, source=work / "boolq"))
        heft("train", work / "recipe.yaml", "--output", adapter, "--overwrite")
    lines = []
    for task, rows in ROWS.items():
        kept(work / f"{task}-heft-eval.json", lambda task=task: heft_eval(task, adapter, work))
        for size in BATCH_SIZES:
            kept(work / f"{task}-heft-{size}.json", lambda t=task, s=size: harness("heft", t, adapter, s, work))
        lines += table(work, task, rows, "heft-eval", "heft", "`heft eval`, batches of 16")
    for task, rows in ROWS.items():
        kept(work / f"{task}-hflm-16.json", lambda task=task: harness("hf", task, MODEL, 16, work))
        for size in BATCH_SIZES:
            kept(work / f"{task}-base-{size}.json", lambda t=task, s=size: harness("heft", t, MODEL, s, work))
        lines += table(work, task, rows, "hflm-16", "base", "HFLM on the base model, batches of 16")
    print("| task | rows | reference | batch | answers that differ | largest difference | accuracy | s |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(lines))


def write_rows(data: Path, work: Path) -> None:
    """The first rows of each validation split, for both programs, and the harness's tasks of them.

    Questions have four words or more: `heft eval` refuses prompts that are shorter than the edited positions.
    """
    for task, count in ROWS.items():
        folder = work / task
        folder.mkdir(parents=True, exist_ok=True)
        for split in ("train", "validation"):
            rows = (data / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
            rows = [row for row in rows if len(json.loads(row)[ASKED[task]].split()) > 3]
            (folder / f"{split}.jsonl").write_text("".join(rows[: count if split == "validation" else None]))
        text = TASK.format(name=task, file=folder / "validation.jsonl", texts=TEXTS[task].strip())
        (work / f"own_{task}.yaml").write_text(text)


def heft(*words: object) -> None:
    """Run a command of heft."""
    subprocess.run([sys.executable, "-m", "heft", *map(str, words)], check=True, stdout=sys.stderr)


def kept(path: Path, make) -> None:
    """Make a figure, unless it is there."""
    if not path.is_file():
        print(path.name, file=sys.stderr, flush=True)
        start = time.perf_counter()
        found = {"rows": make()}
        path.write_text(json.dumps(found | {"seconds": time.perf_counter() - start}))


def heft_eval(task: str, adapter: Path, work: Path) -> list[list[float]]:
    """The log-likelihoods in the records of `heft eval`."""
    output = work / f"{task}.jsonl"
    source = ["--set", f"task.source={work / task}", "--set", "task.eval_limit=null", "--batch-size", 16]
    source += ["--set", "task.max_length=2048"]  # the harness cuts no prompt that the model can read
    heft("eval", adapter, "--task", task, *source, *OF_HEFT[task], "--output", output)
    return [json.loads(line)["log_likelihoods"] for line in output.read_text().splitlines()]


def harness(model: str, task: str, name: object, batch_size: int, work: Path) -> list[list[float]]:
    """The log-likelihoods in the samples of lm-evaluation-harness, in a process of its own."""
    words = [__file__, "--", model, task, name, batch_size, work]
    done = subprocess.run([sys.executable, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def scored(model: str, task: str, name: str, batch_size: int, work: str) -> list[list[float]]:
    """In the process that `harness` starts."""
    import lm_eval
    import torch
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(1)
    if model == "heft":
        from heft.harness.model import HeftLM

        lm = HeftLM(name, batch_size=batch_size, dtype="float32", device="cpu")
    else:
        from lm_eval.models.huggingface import HFLM

        from heft.models.load import load_base
        from heft.recipe.model import ModelSettings

        base = load_base(ModelSettings(name=name, dtype="float32", device="cpu"))
        lm = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=batch_size)
    tasks = TaskManager(include_path=work, include_defaults=False)
    found = lm_eval.simple_evaluate(model=lm, tasks=[f"own_{task}"], task_manager=tasks, bootstrap_iters=0)
    return [[score for ((score, _),) in row["resps"]] for row in found["samples"][f"own_{task}"]]


def gold(row: dict) -> int:
    """The index of the right choice."""
    if "answerKey" in row:
        return row["choices"]["label"].index(row["answerKey"])
    return int(row["answer"] if "answer" in row else row["label"])


def table(work: Path, task: str, count: int, reference: str, found: str, words: str) -> list[str]:
    """A line for each batch size."""
    expected = json.loads((work / f"{task}-{reference}.json").read_text())["rows"]
    labels = [json.loads(line) for line in (work / task / "validation.jsonl").read_text().splitlines()]
    right = [gold(row) for row in labels]
    lines = []
    for size in sorted(BATCH_SIZES):
        kept_figures = json.loads((work / f"{task}-{found}-{size}.json").read_text())
        rows = kept_figures["rows"]
        assert len(rows) == len(expected) == count
        pairs = zip(rows, expected, strict=True)
        largest = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
        answers = [[each.index(max(each)) for each in several] for several in (rows, expected)]
        differ = sum(a != b for a, b in zip(*answers, strict=True))
        share = sum(a == b for a, b in zip(answers[0], right, strict=True)) / count
        seconds = kept_figures["seconds"]
        lines.append(
            f"| {task} | {count} | {words} | {size} | {differ} | {largest:.1e} | {100 * share:.1f} % | {seconds:.0f} |"
        )
    return lines


if __name__ == "__main__":
    if "--" in sys.argv:
        model, task, name, batch_size, work = sys.argv[sys.argv.index("--") + 1 :]
        print(json.dumps(scored(model, task, name, int(batch_size), work)))
    else:
        main()
