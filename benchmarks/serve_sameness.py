"""Whether vLLM with heft's plugin gives what `heft.load` gives: 200 prompts, greedy tokens and ln p of choices.

    python benchmarks/serve_sameness.py RUN --work DIR --vllm benchmarks/.envs/vllm/bin/python > table.md

RUN is a run whose task has choices. Its evaluation questions are asked of the base, the coarse stage and the whole run:
of `heft.load`, one at a time, and of vLLM, in float32, all in one batch: with the prefix cache, twice, so that it has
them; in chunks of 32 tokens without it; and with so few blocks that requests are preempted. What each side gave is kept
in DIR. A token counts as another one where heft's logit for it is not the largest; how far below it is stands beside
it. One thread.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from heft.adapters.attach import activated
from heft.adapters.directory import open_adapters
from heft.adapters.manifest import base_settings, read_manifest
from heft.adapters.places import adapter_directory
from heft.evaluation.likelihood import plain_log_likelihoods
from heft.models.load import load_base
from heft.models.source import local_folder, source_of
from heft.serving.remote import positions_in
from heft.serving.sameness import Asked, gap_of
from heft.verify.subject import make_probe

SIDE = Path(__file__).resolve().parents[1] / "tests/vllm_plugin/vllm_side.py"
WAYS = {
    "with the prefix cache": {"block_size": 32},
    "in chunks of at most 32 tokens, without the cache": {
        "block_size": 32,
        "enable_prefix_caching": False,
        "max_num_batched_tokens": 32,
        "max_num_seqs": 8,
    },
    "preempted": {"block_size": 32, "num_gpu_blocks_override": 40, "max_num_seqs": 64},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vllm", default=str(Path(__file__).with_name(".envs") / "vllm/bin/python"))
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--scored", type=int, default=20, help="of how many of them choices are scored")
    parser.add_argument("--tokens", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    directory = adapter_directory(given.run).resolve()
    manifest = read_manifest(directory)
    settings = base_settings(directory, manifest, False)
    base = load_base(settings.model_copy(update={"device": "cpu", "dtype": "float32"}))
    sizes = {"eval_limit": None, "eval_size": given.prompts}
    task = manifest.task | {key: value for key, value in sizes.items() if key in manifest.task}
    manifest = manifest.model_copy(update={"task": task})
    every = tuple(entry.name for entry in manifest.adapters)
    rows = make_probe(base.tokenizer, manifest, positions_in(directory, every), given.prompts).rows
    rows = [row if n < given.scored else replace(row, choices=()) for n, row in enumerate(rows)]
    model = open_adapters(directory, base).model
    stages = list(dict.fromkeys(entry.stage for entry in manifest.adapters))
    names = {"base": ()}
    for number, stage in enumerate(stages, start=1):
        names[stage] = tuple(entry.name for entry in manifest.adapters if entry.stage in stages[:number])
    folder = local_folder(settings.name) or source_of(settings.name)
    paths = {stage: f"{directory}:{stage}" for stage in stages}
    answers = {way: _vllm(given, way, str(folder), rows, names, paths) for way in WAYS}
    expected = _expected(given.work / "heft.json", model, rows, names, base.tokenizer.pad_token_id)
    print("| in vLLM | adapter | tokens that differ | largest difference of logits there | of ln p |")
    print("|---|---|---|---|---|")
    known: dict = {}
    with torch.inference_mode():
        for way, found in answers.items():
            for name, adapters in names.items():
                tokens = found[name]["tokens"]
                with activated(model, adapters):
                    for row, own in zip(rows, tokens, strict=True):
                        if (name, row.id, *own) not in known:
                            known[name, row.id, *own] = gap_of(model, row.prompt, own)
                gaps = [known[name, row.id, *own] for row, own in zip(rows, tokens, strict=True)]
                pairs = zip(expected[name], found[name]["scores"], strict=True)
                worst = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
                count, total = sum(n for _, n in gaps), sum(map(len, tokens))
                print(f"| {way} | {name} | {count} of {total} | {max(gap for gap, _ in gaps):.1e} | {worst:.1e} |")
                sys.stdout.flush()


def _expected(path: Path, model, rows, names: dict, pad: int) -> dict[str, list[list[float]]]:
    if path.is_file():
        return json.loads(path.read_text())
    found = {}
    for name, adapters in names.items():
        with torch.inference_mode(), activated(model, adapters):
            questions = [Asked(row.id, row.group, row.prompt, tuple(row.choices)) for row in rows if row.choices]
            found[name] = plain_log_likelihoods(model, questions, 1, pad)
    path.write_text(json.dumps(found))
    return found


def _vllm(given: argparse.Namespace, way: str, base: str, rows, names: dict, paths: dict) -> dict[str, dict]:
    path = given.work / f"{list(WAYS).index(way)}.json"
    asked = []
    for name in names:
        own = {"adapter": None if name == "base" else name}
        for row in rows:
            asked.append({**own, "prompt": row.prompt, "count": given.tokens})
            asked += [{**own, "prompt": row.prompt, "choice": choice} for choice in row.choices]
    engine = {"max_model_len": 512, "max_loras": len(paths) or 1, **WAYS[way]}
    jobs = {
        "base": base,
        "engine": engine,
        "adapters": paths,
        "batches": [asked] * (2 if engine.get("enable_prefix_caching", True) else 1),
    }
    answer = Path(f"{path}.out")
    if not answer.is_file():
        path.write_text(json.dumps(jobs))
        start = time.perf_counter()
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"PYTHONPATH": str(SIDE.parents[2] / "src")}
        done = subprocess.run([given.vllm, str(SIDE), str(path)], capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(done.stderr[-4000:])
        print(f"{way}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    whole = json.loads(answer.read_text())
    print(f"{way}: {_figures(whole['figures'])}", file=sys.stderr, flush=True)
    flat, found = iter(whole["answers"][-1]), {}
    for name in names:
        found[name] = {"tokens": [], "scores": []}
        for row in rows:
            found[name]["tokens"].append(next(flat))
            if row.choices:
                found[name]["scores"].append([next(flat) for _ in row.choices])
    return found


def _figures(figures: dict) -> str:
    return f"{figures['vllm:num_preemptions']} preemptions, {figures['vllm:prefix_cache_hits']} tokens from the cache"


if __name__ == "__main__":
    main()
