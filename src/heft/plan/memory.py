"""Peak memory, roughly: what is sure (weights, adapters, optimiser, keys and values) and what is estimated.

Estimated: activations, from what autograd would save of one token on the meta device, times the longest rows; logits as
three float32 copies. Not counted: libraries, the allocator's slack, workspaces of kernels.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heft.plan.operations import Costs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OPTIMIZER_STATES = {"adamw": 2, "adafactor": 0, "sgd": 0}
_QUANTIZED_BYTES = {"8bit": 1.0, "4bit": 0.5}


def weight_bytes(model: "PreTrainedModel", quantization: str | None) -> int:
    """Bytes of a model's parameters; quantised ones are the linear weights inside the blocks."""
    shared = {id(p): (name, p) for name, p in model.named_parameters()}
    small = _QUANTIZED_BYTES.get(quantization or "")
    total = 0.0
    for name, p in shared.values():
        packed = small is not None and p.dim() == 2 and any(part.isdigit() for part in name.split("."))
        total += p.numel() * (small if packed else p.element_size())
    return round(total)


def training_bytes(trainable: int, optimizer: str) -> int:
    """Bytes of gradients and optimiser states of that many float32 weights."""
    return 4 * trainable * (1 + _OPTIMIZER_STATES[optimizer])


def activation_bytes(costs: Costs, tokens: int, columns: int, vocabulary: int) -> int:
    """Bytes of activations and logits of a forward pass with gradients."""
    return round(costs.kept_bytes * tokens + 3 * 4 * columns * vocabulary)


def longest(lengths: Sequence[int], count: int) -> int:
    """Tokens of a batch of the longest rows, padding included."""
    return max(lengths) * min(count, len(lengths))
