"""From raw results to RESULTS.md."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from comparisons import COMPARISONS, FINE_EPOCHS, FINE_ROWS, Comparison, cost_seconds

HELP_AIM = 0.3
MEMORY_AIM = 0.5
SHARE_AIM = 0.03


class Store:
    """Results by name in one JSON file, so that `--only` adds to what is there."""

    def __init__(self, path: Path):
        self._path = path

    def put(self, name: str, result: dict) -> None:
        """Keep a result, in the place of an older one."""
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text(json.dumps(self.all() | {name: result}, indent=1))

    def all(self) -> dict:
        """What is there."""
        return json.loads(self._path.read_text()) if self._path.is_file() else {}


def render_report(results: dict, about: dict, size, options) -> str:
    """The report, in Markdown."""
    parts = [
        _head(about, size, options),
        _times(results),
        _others(results),
        _memory(results),
        _agreement(results),
        _utilisation(results),
        _left_out(),
        _versions(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(about: dict, size, options) -> str:
    command = "make bench" if size.name == "usual" else f"make bench ARGS=--{size.name}"
    precision = "float32" if options.device == "cpu" else "bfloat16"
    return f"""# Speed, measured

Written by `{command}`; do not edit. Model {about["model"]}, {about["data"]} rows as token ids that heft renders once \
for all sides, batches of {size.batch_size}, {precision}, {options.threads} threads, blocks of {size.block_rows} rows. \
Machine: {_machine(options)}.

Both sides of a comparison load once and work by turns (A B A B …). Figures are medians, with the lowest and highest \
block in brackets; a ratio is the other side's time over heft's within a pair of blocks, so above 1 heft is faster. \
(For the sweep, where heft does sixteen times as much, it is heft's time over the other's.)"""


def _machine(options) -> str:
    cores = f"{os.cpu_count()} cores, {_processor()}"
    memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    if options.device == "cuda":
        import torch

        cores = f"{torch.cuda.get_device_name()}, {cores}"
    return f"{cores}, {memory} of memory, {platform.system()}, Python {platform.python_version()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _times(results: dict) -> str:
    lines = [
        "## Against others",
        "",
        "| work | against | heft | the other | ratio | to reach |",
        "|---|---|---|---|---|---|",
    ]
    for comparison in COMPARISONS:
        result = results.get(comparison.name)
        if result is not None:
            lines.append(_time_row(comparison, result))
    return "\n".join(lines)


def _time_row(comparison: Comparison, result: dict) -> str:
    bound = "at most" if comparison.takes_longer else "at least"
    aim = "–" if comparison.aim is None else f"{bound} {comparison.aim}×"
    if "error" in result:
        return f"| {comparison.work} | {comparison.against} | not measured: {result['error']} | | | {aim} |"
    own, peer = ([cost_seconds(comparison, pair[side]) for pair in result["pairs"]] for side in (0, 1))
    ratios = [a / b if comparison.takes_longer else b / a for a, b in zip(own, peer, strict=True)]
    ratio = _spread(ratios, "{:.2f}")
    if comparison.whole_run:
        shown = [_spread(costs, "{:.0f}") + " s" for costs in (own, peer)]
    elif comparison.takes_longer:
        shown = [_spread([pair[side]["seconds"] for pair in result["pairs"]], "{:.0f}") + " s" for side in (0, 1)]
    else:
        shown = [_spread([1 / cost for cost in costs], "{:.2f}") + " rows/s" for costs in (own, peer)]
    mark = " (losses disagree, see below)" if result["losses_disagree"] else ""
    return f"| {comparison.work} | {comparison.against} | {shown[0]} | {shown[1]} | **{ratio}**{mark} | {aim} |"


def _others(results: dict) -> str:
    parts = results.get("parts")
    if parts is None:
        return ""
    lines = ["## Parts", ""]
    lines.append(f"- `heft --help`: {_spread(parts['help_seconds'], '{:.2f}')} s; to reach: at most {HELP_AIM} s.")
    steps = _step_seconds(results)
    for rank, times in parts["orthonormal"].items():
        shares = ", ".join(f"{100 * median(times) / step:.1f} % of a step {name}" for name, step in steps.items())
        lines.append(
            f"- Orthonormal rows of all layers, rank {rank}, forward and backward: {1000 * median(times):.1f} ms"
            f"{': ' if shares else ''}{shares}; to reach: at most {100 * SHARE_AIM:.0f} %."
        )
    if "orthonormal_pyreft" in parts:
        lines.append(
            f"- The same by pyreft, rank 8, one access a layer (a step of pyreft has two):"
            f" {1000 * median(parts['orthonormal_pyreft']):.0f} ms."
        )
    rates = parts["matmul"]["rates"]
    shown = ", ".join(f"{shape}: {rate / 1e9:,.0f}" for shape, rate in rates.items())
    lines.append(f"- Matrix products of this machine, GFLOP/s by shape (rows×inner×columns): {shown}.")
    return "\n".join(lines)


def _step_seconds(results: dict) -> dict[str, float]:
    """Seconds of heft's fine step, by what is kept."""
    steps = {}
    for name, words in (
        ("fine_both_ends", "with all tokens computed"),
        ("fine_nothing_kept", "with nothing kept"),
        ("fine_whole", "with prefixes kept"),
    ):
        result = results.get(name, {})
        if "pairs" in result:
            steps[words] = median(_own_epoch(own) / own["steps_an_epoch"] for own, _ in result["pairs"])
    return steps


def _own_epoch(reply: dict) -> float:
    """Seconds of one epoch, the first left out where there are more."""
    epochs = reply["epoch_seconds"]
    return median(epochs[1:] or epochs)


def _memory(results: dict) -> str:
    lines = [
        "## Memory",
        "",
        "Peak of the process over what it held once the model was loaded (on CUDA: of the device's allocations).",
        "",
        "| work | against | heft | the other | heft / the other |",
        "|---|---|---|---|---|",
    ]
    for comparison in COMPARISONS:
        result = results.get(comparison.name, {})
        if "memory" in result:
            own, peer = (max(1, memory["peak_bytes"] - memory["loaded_bytes"]) for memory in result["memory"])
            aim = f" (to reach: at most {MEMORY_AIM})" if comparison.name == "fine_nothing_kept" else ""
            lines.append(
                f"| {comparison.work} | {comparison.against} | {own / 1e6:,.0f} MB | {peer / 1e6:,.0f} MB |"
                f" {own / peer:.2f}{aim} |"
            )
    return "\n".join(lines)


def _agreement(results: dict) -> str:
    lines = [
        "## Same mathematics",
        "",
        "Loss of the first step on the first batch, from the same trained weights away from the identity (evaluation:"
        " first log-likelihood; the difference is the largest of all). Later losses differ where rows come in another"
        " order.",
        "",
        "| comparison | heft | the other | difference |",
        "|---|---|---|---|",
    ]
    for comparison in COMPARISONS:
        result = results.get(comparison.name, {})
        if "first_losses" in result:
            own, peer = result["first_losses"]
            mark = " **disagree**" if result["losses_disagree"] else ""
            lines.append(
                f"| {comparison.work}, {comparison.against} | {own:.5f} | {peer:.5f} |"
                f" {result['loss_difference']:.1e}{mark} |"
            )
    return "\n".join(lines)


def _utilisation(results: dict) -> str:
    rate = results.get("parts", {}).get("matmul", {}).get("flops_per_second")
    rows = []
    for comparison in COMPARISONS:
        result = results.get(comparison.name, {})
        if rate and result.get("operations"):
            shares = [
                operations / _own_epoch(own) / rate
                for operations, (own, _) in zip(result["operations"], result["pairs"], strict=True)
            ]
            rows.append(
                f"| {comparison.work} | {comparison.flops} | {_spread([100 * s for s in shares], '{:.0f}')} % |"
            )
    if not rows:
        return ""
    head = [
        "## Model FLOP utilisation of heft",
        "",
        "Useful operations over time, as a share of the best rate of torch's own matrix products measured here,"
        f" {rate / 1e9:,.0f} GFLOP/s. Counted: 2N a real token for a forward pass, 4N with a backward pass through"
        " frozen weights, 6N for trained (LoRA's) weights; the head for answer tokens only. Not counted: attention"
        " scores, norms, the optimiser.",
        "",
        "| work | counted as | utilisation |",
        "|---|---|---|",
    ]
    return "\n".join(head + rows)


def _left_out() -> str:
    lines = ["## What the figures leave out", ""]
    lines += [f"- **{c.work}, against {c.against}.** {c.leaves_out}" for c in COMPARISONS]
    lines.append(
        f"- **{FINE_EPOCHS} epochs on {FINE_ROWS} rows** is the length that the issue sets; loading the model and"
        " reading rows are in no figure."
    )
    lines.append("- One machine, one small model. Other sizes, lengths and accelerators have other ratios.")
    return "\n".join(lines)


def _versions(results: dict) -> str:
    lines = ["## Versions", "", "| comparison | heft's side | the other side | notes |", "|---|---|---|---|"]
    for comparison in COMPARISONS:
        result = results.get(comparison.name, {})
        if "versions" in result:
            sides = [", ".join(f"{k} {v}" for k, v in versions.items()) for versions in result["versions"]]
            notes = "; ".join([f"{len(result['pairs'])} pairs of blocks", *result["notes"]])
            lines.append(f"| {comparison.name} | {sides[0]} | {sides[1]} | {notes} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], form: str) -> str:
    """Median, and lowest to highest in brackets where there are several."""
    middle = form.format(median(values))
    return middle if len(values) < 2 else f"{middle} ({form.format(min(values))}–{form.format(max(values))})"
