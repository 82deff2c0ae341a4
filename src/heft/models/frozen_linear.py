"""Products with frozen float32 weights on a CPU, in oneDNN where it is faster than what torch takes.

torch multiplies float32 matrices in MKL, which does not use AVX-512 on processors that are not Intel's. oneDNN, which
comes with torch too, does: on one core of an AMD EPYC (Zen 5) products of SmolLM2's shapes with 144 rows took 0.43 of
their time, 225 to 240 GFLOP/s against 99 to 113. Sums are taken in another order, so results are equal to rounding.

Only layers that do not train compute so, forward and backward; they are nearly all of a stage's work, and all of an
evaluation's.

Shapes: x (…, I), W (O, I), gradient g (…, O).
"""

import platform
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import torch
from torch import nn

from heft.models.other_class import of_class

LEAST_PRODUCTS = 2**21
"""Multiplications of a product below which torch's own way is taken: a call of oneDNN costs more than it saves."""


def frozen_layers_in_onednn(model: nn.Module, enabled: bool = True) -> AbstractContextManager[int]:
    """Inside, the model's frozen linear layers multiply by `product`; afterwards they are torch's as before.

    Only their class changes. A layer that trains, or a call under autocast, takes torch's forward. What is yielded is
    how many layers do so; none where it is not enabled or oneDNN is not faster here.
    """
    layers = [module for module in model.modules() if enabled and onednn_is_faster() and _may_gain(module)]
    return of_class(layers, FrozenLinear)


class FrozenLinear(nn.Linear):
    """A linear layer whose weights do not train."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        if trains or not is_faster_in_onednn(x, self.weight):
            return super().forward(x)
        return _Product.apply(x, self.weight, self.bias)


@cache
def onednn_is_faster() -> bool:
    """Whether torch has oneDNN beside MKL on a processor with AVX-512 that is not Intel's."""
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    has_operation = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return has_both and has_operation and "AVX512" in torch.backends.cpu.get_cpu_capability() and not _is_intel()


def is_faster_in_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `product` of these is to be taken: large enough, float32, in main memory and whole."""
    if torch.compiler.is_compiling() or not onednn_is_faster():
        return False
    if x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    if x.device.type != "cpu" or x.numel() * len(weight) < LEAST_PRODUCTS or torch.is_autocast_enabled("cpu"):
        return False
    return type(weight) in (nn.Parameter, torch.Tensor)


def product(x: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
    """x Wᵀ + b in oneDNN, a tensor of its own; without gradients."""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight_OI, bias_O, "none", [], "")


class _Product(torch.autograd.Function):
    """x Wᵀ + b, with a gradient for x."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return input_gradient(grad, weight), None, None


def input_gradient(grad: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    """g W, in oneDNN where that is faster."""
    if is_faster_in_onednn(grad, weight_OI.t()):
        return product(grad, weight_OI.t())
    return grad @ weight_OI


def _may_gain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"


def _is_intel() -> bool:
    """Whether the processor is Intel's, as far as the system says; on Linux platform.processor() is often empty."""
    about = Path("/proc/cpuinfo")
    vendor = next((line for line in _lines(about) if line.startswith("vendor_id")), platform.processor())
    return "Intel" in vendor


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
