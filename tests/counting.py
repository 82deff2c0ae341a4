"""What ran: how often a function, and how many FLOPs, by torch's own counter, told of products that it does not know.

torch counts `mm`, `addmm`, `bmm` and `baddbmm`, but neither the forms of these that add to a tensor that is there, nor
oneDNN's product, which heft calls (heft.models.prefix_attention, heft.training.fused_lora, heft.models.frozen_linear),
nor the fused kernel of attention on a CPU, which models call.
"""

from collections.abc import Callable
from math import prod

import torch
from torch.utils.flop_counter import FlopCounterMode


def _added(shape, left_shape, right_shape, *args, **kwargs) -> int:
    """(…, M, K) by (…, K, N), added to (…, M, N)."""
    return 2 * prod(left_shape) * right_shape[-1]


def _linear(x_shape, weight_shape, *args, **kwargs) -> int:
    """x (…, I) by W (O, I)."""
    return 2 * prod(x_shape) * weight_shape[0]


def _attention(query_shape, key_shape, value_shape, *args, **kwargs) -> int:
    """Queries (B, H, L, D), keys (B, H, S, D), values (B, H, S, E); scores that a causal mask leaves out included."""
    return 2 * prod(query_shape[:-1]) * key_shape[-2] * (query_shape[-1] + value_shape[-1])


UNKNOWN_TO_TORCH = {
    torch.ops.aten.addmm_: _added,
    torch.ops.aten.baddbmm_: _added,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # not in every build of torch
    UNKNOWN_TO_TORCH[torch.ops.mkldnn._linear_pointwise] = _linear


def calls_of(monkeypatch, owner: type, name: str) -> list[int]:
    """A list that grows by one with each call of a function, which does what it did."""
    seen = []
    function = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args: seen.append(1) or function(*args))
    return seen


def counted(work: Callable[[], object]) -> int:
    """FLOPs of the matrix products of a call, forward and backward."""
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH) as counter:
        work()
    return counter.get_total_flops()
