"""What ran, in FLOPs, by torch's own counter, told of the products that it does not know.

torch counts `mm`, `addmm`, `bmm` and `baddbmm`, but neither the forms of these that add to a tensor that is there, nor
oneDNN's product. heft calls both: heft.models.prefix_attention, heft.training.fused_lora, heft.models.frozen_linear.
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


UNKNOWN_TO_TORCH = {torch.ops.aten.addmm_: _added, torch.ops.aten.baddbmm_: _added}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # not in every build of torch
    UNKNOWN_TO_TORCH[torch.ops.mkldnn._linear_pointwise] = _linear


def counted(work: Callable[[], object]) -> int:
    """FLOPs of the matrix products of a call, forward and backward."""
    with FlopCounterMode(display=False, custom_mapping=UNKNOWN_TO_TORCH) as counter:
        work()
    return counter.get_total_flops()
