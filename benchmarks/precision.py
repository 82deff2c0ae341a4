"""Measure what `dtype: auto` and `fused` rest on, on this machine: products and LoRA steps; PRECISION.md has figures.

    python benchmarks/precision.py [--threads 2] [--rows 24x41] [--rounds 6]   prints Markdown

Each round runs every kind once, so that what else the machine does meets all of them; figures are medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import product

import torch
from torch.nn import functional as F

from heft.adapters.attach import attach
from heft.data.encode import left_pad
from heft.models.load import load_base, quiet
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import LoraStage
from heft.training.fused_lora import fused_lora

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHAPES = ((576, 576), (192, 576), (1536, 576), (576, 1536))
"""(out, in) of SmolLM2-135M's linear layers."""


def main() -> None:
    """Print all three tables."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rows", default="24x41", help="rows x tokens of a step; default: %(default)s")
    options.add_argument("--rounds", type=int, default=6)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    quiet()
    rows, tokens = map(int, given.rows.split("x"))
    _print_table("GFLOP/s of (tokens, in) by (in, out)", _products(rows * tokens, given.rounds))
    _print_table(f"seconds of a LoRA step, {rows} rows of {tokens} tokens", _steps(rows, tokens, given.rounds))


def _products(tokens: int, rounds: int) -> dict[str, float]:
    work, flops = {}, {}
    for (out, inner), (name, dtype) in product(SHAPES, DTYPES.items()):
        key = f"{tokens}x{inner}x{out} {name}"
        x, weight = torch.randn(tokens, inner).to(dtype), torch.randn(out, inner).to(dtype)
        work[key], flops[key] = lambda x=x, weight=weight: F.linear(x, weight), 2.0 * tokens * inner * out / 1e9
    return {key: flops[key] / seconds for key, seconds in _medians(work, rounds).items()}


def _steps(rows: int, tokens: int, rounds: int) -> dict[str, float]:
    """Forward and backward with logits of the last tokens, rows of unlike length."""
    ids = torch.randint(5, 40_000, (rows, tokens), generator=torch.Generator().manual_seed(0))
    batch = left_pad([row[: tokens - number % 8].tolist() for number, row in enumerate(ids)], 2)
    models = {name: _model(name) for name in DTYPES}
    work = {}
    for name, attention, fused in product(DTYPES, ("sdpa", "eager"), (False, True)):
        key = f"{name}, {attention}, {'fused' if fused else 'PEFT'}"
        work[key] = lambda name=name, attention=attention, fused=fused: _step(models[name], batch, attention, fused)
    return _medians(work, rounds)


def _model(dtype: str):
    model = load_base(ModelSettings(dtype=dtype, device="cpu")).model
    attach(model, "coarse", LoraStage(method="lora", rank=8))
    return model.train()


def _step(model, batch: dict[str, torch.Tensor], attention: str, fused: bool) -> None:
    model.set_attn_implementation(attention)
    width = batch["input_ids"].shape[1]
    with fused_lora(model, fused):
        logits = model(**batch, use_cache=False, logits_to_keep=torch.arange(width - 4, width)).logits
        F.cross_entropy(logits[:, :-1].float().flatten(0, 1), batch["input_ids"][:, -3:].flatten()).backward()
    model.zero_grad()


def _medians(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each, by turns; a first round warms up."""
    seconds: dict[str, list[float]] = {key: [] for key in work}
    for number in range(rounds + 1):
        for key, run in work.items():
            begin = time.perf_counter()
            run()
            if number:
                seconds[key].append(time.perf_counter() - begin)
    return {key: statistics.median(each) for key, each in seconds.items()}


def _print_table(title: str, figures: dict[str, float]) -> None:
    print(f"\n| {title} | |\n|---|---|")
    for key, value in figures.items():
        print(f"| {key} | {value:.3g} |", flush=True)


if __name__ == "__main__":
    main()
