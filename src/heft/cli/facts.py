"""The line of facts beside a bar: speed, time left, memory."""

import sys

import psutil

from heft.cli.estimate import Estimate
from heft.text.units import in_bytes, in_time

_PROCESS = psutil.Process()


def memory_in_use() -> tuple[int, str]:
    """Bytes, and of what: the peak that torch had allocated on the graphics card, else what the process has in RAM."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated(), "CUDA peak"
    return _PROCESS.memory_info().rss, "RAM"


def facts(estimate: Estimate, loss: str = "") -> str:
    """`loss 1.2, 45 rows/s, 1,900 tokens/s, 12 s left (run: 1.7 min), 1.2 GB RAM`, as far as it is known."""
    parts = [loss] if loss else []
    if estimate.speed is not None:
        rows, tokens = estimate.speed
        parts += [f"{_rate(rows)} rows/s", f"{_rate(tokens)} tokens/s"]
    own, run = estimate.seconds_of_piece, estimate.seconds_of_run
    left = [in_time(own) + " left"] if own else []
    if run and run != own:
        left.append(f"(run: {in_time(run)})" if left else f"run: {in_time(run)} left")
    parts += [" ".join(left)] if left else []
    held, where = memory_in_use()
    return ", ".join([*parts, f"{in_bytes(held)} {where}"])


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
