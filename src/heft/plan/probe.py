"""A probe of this machine: how fast it multiplies matrices of the model's shapes."""

import time
from collections.abc import Mapping, Sequence

import torch

MOST_TOKENS = 1024
"""Rows of a probed product; rates no longer rise beyond."""


def matrix_rates(
    shapes: Mapping[tuple[int, int], int],
    tokens: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    seconds: float = 10.0,
) -> dict[int, float]:
    """FLOPs a second at products of (tokens, in) by (in, out), weighted as the model has them.

    Args:
        shapes: (in, out) and how often the model has it.
        tokens: rows of the products; more than `MOST_TOKENS` are probed as `MOST_TOKENS`.
        dtype: of both factors.
        device: where to compute.
        seconds: for the whole probe.

    Returns:
        The rate at each of `tokens`.
    """
    slice_seconds = seconds / max(1, len(set(tokens)) * len(shapes))
    rates = {}
    for count in sorted(set(tokens)):
        flops = spent = 0.0
        for (inputs, outputs), times in shapes.items():
            rows = max(1, min(count, MOST_TOKENS))
            flops += 2.0 * rows * inputs * outputs * times
            spent += times * _seconds_of_product(rows, inputs, outputs, dtype, device, slice_seconds)
        rates[count] = flops / spent
    return rates


def _seconds_of_product(rows, inputs, outputs, dtype, device, budget) -> float:
    """The median time of one product; the first, which warms up, is left out."""
    left = torch.randn(rows, inputs, dtype=dtype, device=device)
    right = torch.randn(outputs, inputs, dtype=dtype, device=device)
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < budget:
        before = time.perf_counter()
        torch.nn.functional.linear(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - before)
    return sorted(times[1:])[len(times[1:]) // 2]
