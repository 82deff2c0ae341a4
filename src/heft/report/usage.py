"""Lines to paste that use an adapter: the command line, Python, PEFT, lm-evaluation-harness."""

import json
import shlex
from pathlib import Path

from heft.compare.arms import Arm
from heft.errors import HeftError
from heft.report.parts import Section, Snippet
from heft.storage.reading import read_json

_ABOUT = "The adapter is in {folder}. These lines use it from where this page was made."

_NEEDS = {
    "reft": "import heft.reft  # registers ReFT with PEFT\n",
    "alora": "import heft.alora  # registers LoRA with positions with PEFT\n",
}
"""What PEFT has to have imported, by the kind of adapter."""


def section(arm: Arm) -> Section | None:
    """Snippets for the adapter of an arm's first run; None where that is not on disk, or is the base alone."""
    run = arm.runs[0]
    folder = run.path.resolve() / "adapter"
    if arm.stage == "base" or not (folder / "heft.json").is_file():
        return None
    stages = [evaluation.stage for evaluation in run.evaluations[1:]]
    about = [_ABOUT.format(folder=folder)]
    if arm.stage != stages[-1]:
        about.append(
            f"All stages of the run are in it; --stages, in Python stages=, picks those up to {arm.stage}, and lines"
            " without it use all."
        )
    chosen = stages[: stages.index(arm.stage) + 1] if arm.stage != stages[-1] else []
    return Section(
        "use", "Use this adapter", about, blocks=[*_commands(folder, chosen), _python(folder, chosen), *_others(folder)]
    )


def _commands(folder: Path, stages: list[str]) -> list[Snippet]:
    picked = "".join(f" --stages {shlex.quote(stage)}" for stage in stages)
    path = shlex.quote(str(folder))
    predict = f"heft predict {path} new-rows.csv --output answers.csv{picked}"
    generate = f'heft generate {path} "A prompt as in training"{picked}'
    return [
        Snippet("New rows", "Answers a table: its columns come out with the answer.", predict, "shell"),
        Snippet("One prompt", "Answers a text.", generate, "shell"),
    ]


def _python(folder: Path, stages: list[str]) -> Snippet:
    picked = f", stages={json.dumps(stages)}" if stages else ""
    lines = (
        f"import heft\n\nadapter = {_quoted(folder)}\n"
        f'answers = heft.predict(adapter, "new-rows.csv"{picked})\n'
        "model, tokenizer = heft.load(adapter)"
    )
    about = "Answers to rows, or a transformers model with every stage active."
    return Snippet("Python", about, lines, "python")


def _others(folder: Path) -> list[Snippet]:
    """PEFT, for an adapter of one stage or the first of several, and lm-evaluation-harness."""
    try:
        manifest = read_json(folder / "heft.json")
        first = manifest["adapters"][0]
        name, base = first["name"], manifest["model"]["name"]
        kind = _kind(folder, first)
    except (OSError, LookupError, TypeError, ValueError):
        return []
    needs = _NEEDS.get(kind, "")
    alone = len(manifest["adapters"]) == 1
    built_in = isinstance(base, str) and base.startswith(("embedded:", "random:"))
    snippets = []
    if isinstance(base, str) and isinstance(name, str) and not built_in:
        peft = (
            f"{needs}from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
            f"base = AutoModelForCausalLM.from_pretrained({json.dumps(base)})\n"
            f"model = PeftModel.from_pretrained(base, {_quoted(folder / name)})"
        )
        about = "The adapter." if alone else f"The first stage, {name}, alone; heft.load has them all."
        snippets.append(Snippet("PEFT", about, peft, "python"))
    about = "Benchmarks of EleutherAI’s harness (pip install 'heft[harness]'), scored by heft."
    harness = f"heft eval {shlex.quote(str(folder))} --harness boolq,arc_easy"
    return [*snippets, Snippet("lm-evaluation-harness", about, harness, "shell")]


def _kind(folder: Path, entry: dict) -> str:
    """An adapter's method; "alora" where LoRA acts on some tokens only, in a folder of heft's own type or of PEFT's."""
    try:
        config = read_json(folder / str(entry["name"]) / "adapter_config.json")
    except (HeftError, OSError, ValueError):
        config = {}
    placed = config.get("peft_type") == "ACTIVATED_LORA"
    if config.get("alora_invocation_tokens"):
        return "alora in plain PEFT"
    return "alora" if placed else str(entry["method"])


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)
