"""How fast a server answers: throughput and latency by clients and by what they ask for.

    python benchmarks/serve.py run --out OUT [--adapter RUN] [--clients 1 2 4 8 16 32] [--transformers]
    python benchmarks/serve.py vllm PYTHON --out OUT --adapter RUN [--clients …]
    python benchmarks/serve.py load URL --models NAME … [--clients …]      any OpenAI-compatible server, such as vLLM's
    python benchmarks/serve.py table OUT

`run` trains the quickstart's adapter where none is given, and asks one `heft serve` for the base, for the coarse stage,
for the whole adapter, and for as many adapters as there are clients (the same directory under other names, which the
server cannot know). Then, in one server with and one without a prefix cache, eight adapters of last positions (LoRA of
`l8+`, so that what stands before is the base's) with a prompt of some 500 tokens that they share: the time to the first
token. With `--transformers`, the base in `transformers serve` too.

`vllm` asks vLLM with heft's plugin (PYTHON is that of `make serve-env`) for the base, for the coarse stage, which is
vLLM's own LoRA, for the whole adapter, and for a LoRA and for an adapter of each client's own.

Each client sends a request, reads its answer as a stream, and sends the next; prompts differ. A block is every kind
once, in turns, and blocks are repeated; what is shown are medians over blocks. OUT/results.jsonl has a line a
measurement.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from heft.adapters.manifest import read_manifest
from heft.adapters.places import adapter_directory
from heft.builtin import embedded_path

NEW_TOKENS = 24
ROUNDS = 3
"""Requests of each client in a measurement; the first is not counted."""
ADAPTERS = 32
SHARED = "In a house with many rooms people go from one to another all day long. " * 31
"""Some 500 tokens."""
EIGHT = 8
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run_, load_, vllm_ = (commands.add_parser(name) for name in ("run", "load", "vllm"))
    vllm_.add_argument("python")
    for command in (run_, vllm_):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--adapter", type=Path, help="a finished run with two stages")
        command.add_argument("--blocks", type=int, default=3)
    run_.add_argument("--tail-adapter", type=Path, help="one whose stages act on last positions")
    run_.add_argument("--transformers", action="store_true")
    load_.add_argument("url")
    load_.add_argument("--models", nargs="+", required=True)
    for command in (run_, load_, vllm_):
        command.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    commands.add_parser("table").add_argument("out", type=Path)
    options = parser.parse_args()
    if options.command == "table":
        print(table_of(options.out))
    elif options.command == "load":
        for clients in options.clients:
            print(json.dumps(measured(options.url, spread(options.models, clients)).as_dict()), flush=True)
    elif options.command == "vllm":
        run_vllm(options)
    else:
        run(options)


@dataclass(frozen=True)
class Measurement:
    """Of one load.

    Attributes:
        tokens: new tokens a second, of all clients together.
        first: median seconds to a request's first token.
        between: median seconds between two tokens of a text.
    """

    tokens: float
    first: float
    between: float

    def as_dict(self) -> dict[str, float]:
        return {"tokens_per_second": self.tokens, "first_token_s": self.first, "between_tokens_s": self.between}


def run(options: argparse.Namespace) -> None:
    """Every kind of load, block by block; each line is written as it is measured."""
    options.out.mkdir(parents=True, exist_ok=True)
    adapter = options.adapter or trained(options.out / "adapter")
    tail = options.tail_adapter or trained(options.out / "tail", "--set", "stages.coarse.positions=l8+")
    names = {f"a{number}": adapter for number in range(ADAPTERS)}
    command = ["-m", "heft", "serve", *(f"{name}={path}" for name, path in names.items()), "--port", "0"]
    base = read_manifest(adapter_directory(adapter)).model.name
    kinds = {"base": [base], "coarse": ["a0:coarse"], "HEFT": ["a0"], "an adapter for each client": list(names)}
    with (options.out / "results.jsonl").open("a") as file:

        def keep(block: int, kind: str, clients: int, found: Measurement) -> None:
            line = {"block": block, "kind": kind, "clients": clients, **found.as_dict()}
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(json.dumps(line), flush=True)

        with server(command) as url:
            measured(url, [base])  # until it has begun to answer
            for block in range(options.blocks):
                for clients in options.clients:
                    for kind, models in kinds.items():
                        keep(block, kind, clients, measured(url, spread(models, clients)))
        eight = [f"t{number}={tail}" for number in range(EIGHT)]
        for label, memory in (("with", "256"), ("without", "0")):
            with server(["-m", "heft", "serve", *eight, "--port", "0", "--prefix-memory", memory]) as url:
                measured(url, [base])  # until it has begun to answer
                for block in range(options.blocks):
                    prompt = f"{block}. {SHARED}"  # new in each block, so that a cache begins without it
                    models = [f"t{number}" for number in range(EIGHT)]
                    found = measured(url, models, prompt, rounds=1, counted_from=0)
                    keep(block, f"eight adapters, one prefix, {label} a prefix cache", EIGHT, found)
        if options.transformers:
            folder = embedded_folder(base)
            with server(["-m", "transformers.cli.transformers", "serve", folder, "--port", "18123"], 18123) as url:
                for block in range(options.blocks):
                    for clients in options.clients:
                        keep(block, "base, transformers serve", clients, measured(url, spread([folder], clients)))


def run_vllm(options: argparse.Namespace) -> None:
    """Every kind of load that vLLM answers, block by block."""
    options.out.mkdir(parents=True, exist_ok=True)
    adapter = adapter_directory(options.adapter or trained(options.out / "adapter")).resolve()
    heft = {f"a{number}": str(adapter) for number in range(ADAPTERS)}
    lora = {f"c{number}": f"{adapter}:coarse" for number in range(ADAPTERS)}
    modules = [f"{name}={path}" for name, path in {**heft, **lora}.items()]
    base = embedded_folder(read_manifest(adapter).model.name)
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", base, "--served-model-name", "base"]
    command += ["--host", "127.0.0.1", "--port", "18124", "--dtype", "bfloat16", "--enforce-eager"]
    command += ["--max-model-len", "1024", "--enable-lora", "--max-lora-rank", "8", "--max-loras", str(2 * ADAPTERS)]
    command += ["--lora-target-modules", *TARGETS, "--lora-modules", *modules]
    kinds = {
        "base": ["base"],
        "vLLM's LoRA": ["c0"],
        "HEFT": ["a0"],
        "a LoRA for each client": list(lora),
        "an adapter for each client": list(heft),
    }
    with (options.out / "results.jsonl").open("a") as file, vllm(options.python, command, options.out) as url:
        for models in kinds.values():
            measured(url, models)  # until each has been taken into memory
        for block in range(options.blocks):
            for clients in options.clients:
                for kind, models in kinds.items():
                    found = measured(url, spread(models, clients)).as_dict()
                    line = json.dumps({"block": block, "kind": kind, "clients": clients, **found})
                    print(line, file=file, flush=True)
                    print(line, flush=True)


@contextmanager
def vllm(python: str, command: Sequence[str], out: Path) -> Iterator[str]:
    """vLLM's server, in an environment of its own that has heft's plugin, on a CPU."""
    own = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    source = str(Path(__file__).resolve().parents[1] / "src")
    with (out / "vllm.log").open("w") as log, server(command, 18124, python, own | {"PYTHONPATH": source}, log) as url:
        yield url


def trained(folder: Path, *settings: str) -> Path:
    """A run of the quickstart, trained if it is not there."""
    if not (folder / "summary.json").exists():
        heft = [sys.executable, "-m", "heft", "train", "quickstart", "--output", str(folder), "--resume", "--quiet"]
        subprocess.run([*heft, *settings], check=True)
    return folder


def embedded_folder(model: str) -> str:
    """Where a model lies that transformers can load."""
    return str(embedded_path(model)) if model.startswith("embedded:") else model


@contextmanager
def server(
    command: Sequence[str],
    port: int | None = None,
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    log: IO[str] | None = None,
) -> Iterator[str]:
    """A server's address, from when it answers until it has ended; without a port it prints its address first."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})}
    streams = {"stdout": subprocess.PIPE if log is None else log, "stderr": log}
    process = subprocess.Popen([python, *map(str, command)], **streams, text=True, env=environment)
    try:
        if port is None:
            yield re.search(r"http://\S+:\d+", process.stdout.readline())[0]
        else:
            url = f"http://127.0.0.1:{port}"
            for _ in range(240):
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command[:2])} ended with status {process.returncode}")
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=5).read()
                    break
                except OSError:
                    time.sleep(1)
            yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def spread(models: Sequence[str], clients: int) -> list[str]:
    """The model of each client."""
    return [models[number % len(models)] for number in range(clients)]


def measured(
    url: str, models: Sequence[str], before: str = "", rounds: int = ROUNDS, counted_from: int = 1
) -> Measurement:
    """So many requests of each client, one after another; the clients at the same time.

    All begin each of their requests together; a rate is of what all get, from there to the last token.
    """
    seen: list[list[list[float]]] = [[] for _ in models]
    ready = threading.Barrier(len(models))

    def client(number: int) -> None:
        for round_ in range(rounds):
            ready.wait()
            prompt = f"{before}Client {number} asks for the {round_}th time: where is the milk?"
            seen[number].append(streamed(url, models[number], prompt))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rates, first, between = [], [], []
    for round_ in range(counted_from, rounds):
        times = [seen[number][round_] for number in range(len(models))]
        begun, ended = min(each[0] for each in times), max(each[-1] for each in times)
        tokens = [token_count(model, each) for model, each in zip(models, times, strict=True)]
        rates.append(sum(tokens) / (ended - begun))
        first += [each[1] - each[0] for each in times]
        between += [(each[-1] - each[1]) / max(1, count - 1) for each, count in zip(times, tokens, strict=True)]
    return Measurement(statistics.median(rates), statistics.median(first), statistics.median(between))


def goes_on(model: str) -> bool:
    """Whether a request can say that a text has no end before its last token; transformers' server has no such key."""
    return "/" not in model


def token_count(model: str, times: Sequence[float]) -> int:
    """New tokens of an answer; where a text may end early, the pieces that came, of a token each."""
    return NEW_TOKENS if goes_on(model) else len(times) - 1


def streamed(url: str, model: str, prompt: str) -> list[float]:
    """When a request began, and when each piece of its answer came."""
    body = {"model": model, "prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0, "stream": True}
    body |= {"ignore_eos": True} if goes_on(model) else {}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    times = [time.perf_counter()]
    with urllib.request.urlopen(request, timeout=600) as response:
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise SystemExit(f"{model}: {event['error']}")
            if any(choice.get("text") for choice in event.get("choices", ())):
                times.append(time.perf_counter())
    return times


def table_of(out: Path) -> str:
    """Markdown: a line for each kind and number of clients, medians over blocks."""
    found: dict[tuple[str, int], list[dict]] = {}
    for line in (out / "results.jsonl").read_text().splitlines():
        each = json.loads(line)
        found.setdefault((each["kind"], each["clients"]), []).append(each)
    lines = [
        "| asked for | clients | blocks | new tokens/s (least to most) | to base | first token, ms | between two, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, clients), blocks in found.items():
        rates = sorted(each["tokens_per_second"] for each in blocks)
        base = {each["block"]: each["tokens_per_second"] for each in found.get(("base", clients), ())}
        ratios = [each["tokens_per_second"] / base[each["block"]] for each in blocks if each["block"] in base]
        cells = [
            kind,
            str(clients),
            str(len(blocks)),
            f"{statistics.median(rates):.1f} ({rates[0]:.1f}–{rates[-1]:.1f})",
        ]
        cells.append(f"{statistics.median(ratios):.2f}" if ratios and "prefix" not in kind else "–")
        cells += [
            f"{1000 * statistics.median(each[key] for each in blocks):.0f}"
            for key in ("first_token_s", "between_tokens_s")
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
