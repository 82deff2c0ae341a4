"""The arms of recipes/paper/llama_2_7b.yaml on a model of Llama-2-7B's exact shape, with random weights.

    python benchmarks/llama_2_7b.py build MODEL --boolq DIR [--layers N]
    python benchmarks/llama_2_7b.py run MODEL --boolq DIR --out OUT [--arms heft lora_20 …] [--full [--rows N]]
    python benchmarks/llama_2_7b.py table OUT
    python benchmarks/llama_2_7b.py speed OUT --peak 989e12

What it shows is that everything goes on a model of that size: training, resume, evaluation of the reloaded adapter,
verify and export, in how much time and memory. Accuracy means nothing here. `build` writes 13.5 GB and a BPE tokenizer
of 32,000 tokens, trained on the passages; `--boolq` has train.jsonl and validation.jsonl as on the Hub. `run` takes
each arm with 8 rows and one step of 4 rows (in passes of 2) for every stage, three for the last, which is ended on its
way and resumed; arms that differ in their epochs alone are then one recipe, which runs once. With `--full` (a graphics
card) it takes the arm as it is, or its epochs over N rows. `speed` prints steps per second of such runs, and FLOPs over
what a device of that peak rate would do in that time (MFU). Needs 24 GB of memory on a CPU, 40 GB on a card.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from heft.recipe.recipe import Recipe
from heft.study.files import load_study

SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Of meta-llama/Llama-2-7b-hf: 6,738,415,616 parameters."""
STEPS = {"batch_size": 4, "micro_batch_size": 2, "epochs": None}
ROWS, EVALUATED = 8, 4
OF_A_STAGE = ("name", "steps", "tokens", "seconds", "evaluation_seconds", "peak_bytes", "flops", "plain_flops")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    build_, run_ = commands.add_parser("build"), commands.add_parser("run")
    for command in (build_, run_):
        command.add_argument("model", type=Path)
        command.add_argument("--boolq", type=Path, required=True)
    build_.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    run_.add_argument("--out", type=Path, required=True)
    run_.add_argument("--arms", nargs="+")
    run_.add_argument("--full", action="store_true")
    run_.add_argument("--rows", type=int, help="with --full: train on so many rows, evaluate as many")
    run_.add_argument("--micro", type=int, help="with --full: rows in a pass, and in a step if it has fewer")
    commands.add_parser("table").add_argument("out", type=Path)
    speed_ = commands.add_parser("speed")
    speed_.add_argument("out", type=Path)
    speed_.add_argument("--peak", type=float, required=True, help="FLOP/s of the device")
    options = parser.parse_args()
    if options.command == "table":
        print(table_of(options.out))
    elif options.command == "speed":
        print(speed_of(options.out, options.peak))
    elif options.command == "build":
        build(options.model, options.boolq, options.layers)
    else:
        run(options)


def build(folder: Path, boolq: Path, layers: int) -> None:
    """Write the model, one file for each block, so that no more than a block is in memory."""
    folder.mkdir(parents=True)
    config = LlamaConfig(**{**SHAPE, "num_hidden_layers": layers}, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {name: each.shape for name, each in LlamaForCausalLM(config).state_dict().items()}
    files: dict[str, list[str]] = {}
    for name in shapes:
        part = name.split(".")[2] if ".layers." in name else "rest"
        files.setdefault(f"model-{part}.safetensors", []).append(name)
    numbers = torch.Generator().manual_seed(0)
    for file, names in files.items():
        save_file({name: _weight(name, shapes[name], numbers) for name in names}, folder / file, {"format": "pt"})
    places = {name: file for file, names in files.items() for name in names}
    total = 2 * sum(shape.numel() for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _tokenizer(boolq).save_pretrained(folder)


def _weight(name: str, shape: torch.Size, numbers: torch.Generator) -> torch.Tensor:
    if "norm" in name:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=numbers)


def _tokenizer(boolq: Path) -> PreTrainedTokenizerFast:
    """Byte-level BPE with as many tokens as Llama-2's."""
    rows = map(json.loads, (boolq / "train.jsonl").read_text(encoding="utf-8").splitlines())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"], special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((row["passage"] for row in rows), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=special[0], bos_token="<s>", eos_token="</s>")


def run(options: argparse.Namespace) -> None:
    """Each recipe that is not there yet: train (ended and resumed), evaluate, verify, export; a line of JSON each."""
    study = load_study("paper/llama_2_7b")
    results = options.out / "results.jsonl"
    options.out.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line)["arms"] for line in results.read_text().splitlines()] if results.exists() else []
    alike: dict[str, list[str]] = {}
    for arm in options.arms or study.recipes:
        alike.setdefault(json.dumps(settings_of(study.recipes[arm], options)), []).append(arm)
    for settings, arms in alike.items():
        if not any(set(arms) <= set(each) for each in done):
            found = walk(arms, json.loads(settings), options)
            with results.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(json.dumps(found), flush=True)


def settings_of(recipe: Recipe, options: argparse.Namespace) -> dict:
    """An arm's recipe on this model, in the length that is asked for; without its name."""
    settings = recipe.model_dump(mode="json", exclude_unset=True, exclude={"name", "output"})
    settings["model"]["name"] = str(options.model.resolve())
    settings["task"]["source"] = str(options.boolq.resolve())
    if not options.full:
        settings["task"] |= {"train_limit": ROWS, "eval_limit": EVALUATED}
        settings["checkpoint"] = {"every_steps": 1}
        last = list(settings["stages"])[-1]
        for name, stage in settings["stages"].items():
            stage |= {**STEPS, "steps": 3 if name == last else 1}
    elif options.rows is not None:
        settings["task"] |= {"train_limit": options.rows, "eval_limit": options.rows}
    if options.full and options.micro is not None:
        for stage in settings["stages"].values():
            rows = max(options.micro, stage.get("batch_size", 16))
            stage |= {"batch_size": rows, "micro_batch_size": options.micro}
    return settings


def walk(arms: list[str], settings: dict, options: argparse.Namespace) -> dict:
    """Seconds and peak memory of each command on one recipe, beside what `heft plan` said.

    They go on behind what an earlier call has measured (`found.json`).
    """
    folder, last = options.out / arms[0], list(settings["stages"])[-1]
    folder.mkdir(parents=True, exist_ok=True)
    path, output = folder / "recipe.yaml", folder / "run"
    path.write_text(json.dumps({"name": arms[0], **settings}))
    kept = folder / "found.json"
    found = json.loads(kept.read_text()) if kept.exists() else {"arms": arms, "full": options.full}
    train = ("train", path, "--output", output)
    until = None if options.full else output / "checkpoints" / f"{len(settings['stages']) - 1}-{last}"
    to = export_of([stage["method"] for stage in settings["stages"].values()])
    commands = {
        "plan": ("plan", path, "--no-probe", "--json"),
        "train": train,
        **({} if until is None else {"resume": (*train, "--resume")}),
        "eval": ("eval", output, "--output", folder / "again.jsonl"),
        "verify": ("verify", output),
        "export": ("export", output, "--to", to, folder / to),
    }
    for name, command in commands.items():
        if name not in found:
            took = heft(*command, at_most=until if name == "train" else None)
            said = took.pop("said")
            found[name] = took
            if name == "plan":
                found["planned"] = max(stage["peak_bytes"] for stage in json.loads(said)["stages"])
            kept.write_text(json.dumps(found))
    found["to"] = to
    found["stages"] = [
        {key: stage.get(key) for key in OF_A_STAGE}
        for stage in json.loads((output / "summary.json").read_text())["stages"]
    ]
    return found


def export_of(methods: Sequence[str]) -> str:
    """The smallest form that an adapter of these stages can be exported to exactly."""
    if set(methods) == {"reft"}:
        return "pyreft"
    return "peft" if methods[0] == "lora" and set(methods[1:]) <= {"reft"} else "transformers"


def heft(*arguments: object, at_most: Path | None) -> dict:
    """A command's seconds, its peak of memory in bytes and what it printed; ended once a checkpoint is in `at_most`."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "heft", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    while at_most is not None and process.poll() is None and not list(at_most.glob("step-*")):
        time.sleep(0.2)
    if at_most is not None and process.poll() is None:
        process.terminate()
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != (143 if at_most is not None else 0):
        raise SystemExit(f"heft {' '.join(map(str, arguments))} ended with status {code}:\n{said[-2000:]}")
    return {"seconds": time.monotonic() - begun, "peak_bytes": usage.ru_maxrss * 1024, "said": said}


def table_of(out: Path) -> str:
    """Markdown: a line an arm."""
    commands = ("train", "resume", "eval", "verify", "export")
    lines = [
        f"| arm | planned, GB | {' | '.join(f'{each}: s, GB' for each in commands)}, to |",
        f"|---|---|{'---|' * len(commands)}",
    ]
    for line in (out / "results.jsonl").read_text().splitlines():
        found = json.loads(line)
        cells = [
            f"{found[each]['seconds']:.0f}, {found[each]['peak_bytes'] / 1e9:.1f}" if each in found else "–"
            for each in commands
        ]
        lines.append(
            f"| {', '.join(found['arms'])} | {found['planned'] / 1e9:.1f} | {' | '.join(cells)}, {found['to']} |"
        )
    return "\n".join(lines)


def speed_of(out: Path, peak: float) -> str:
    """Markdown: a line for each trained stage."""
    lines = ["| arm | stage | steps | steps/s | tokens/s | peak, GB | MFU, % |", "|---|---|---|---|---|---|---|"]
    for line in (out / "results.jsonl").read_text().splitlines():
        found = json.loads(line)
        for stage in found["stages"][1:]:
            seconds = stage["seconds"]
            figures = [f"{stage['steps'] / seconds:.2f}", f"{stage['tokens'] / seconds:,.0f}"]
            figures += [f"{stage['peak_bytes'] / 1e9:.1f}", f"{100 * stage['flops'] / seconds / peak:.1f}"]
            lines.append(f"| {', '.join(found['arms'])} | {stage['name']} | {stage['steps']} | {' | '.join(figures)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
