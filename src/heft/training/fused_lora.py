"""LoRA's forward and backward pass as one autograd function, for what a stage has nearly always.

PEFT computes y = W x + b, then A x, then B (A x), then s · …, then the sum, each an operation with tensors of its own;
where the base is in bfloat16 it casts x to the adapter's float32 and multiplies by A and B in that, and casts back.
Here the same is five skinny products, two of which add to what is there, in the base's dtype:

    forward:  h = A xᵀ         y = x Wᵀ + b, then y += hᵀ (sB)ᵀ
    backward: u = (sB)ᵀ gᵀ     ∂x = g W, then ∂x += uᵀ A      ∂A = u x      ∂B = s (h g)ᵀ

An adapter with positions (heft.alora) acts on some tokens only: the columns of h and of u that belong to other tokens
are set to zero, by one mask for all adapters.

A and B stay the float32 weights that PEFT made, and so do their gradients and the optimizer's steps. In float32 the
results are PEFT's to rounding. In bfloat16 x is not cast, A and sB are rounded to bfloat16 for each pass, as autocast
would, products accumulate in float32 and only their results are rounded (tests compare both with float64).

Shapes: x (…, I), W (O, I), A (R, I), B (O, R), g (…, O), with … flattened to N; several active adapters are one of the
sum of their ranks, each with columns of its own in the mask (R, N).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from peft.tuners import lora
from torch import nn

from heft.alora.variant import ActivatedVariant
from heft.models.frozen_linear import FrozenLinear, input_gradient, is_faster_in_onednn, product
from heft.models.other_class import of_class


def fused_lora(model: nn.Module, enabled: bool = True) -> AbstractContextManager[int]:
    """Inside, the model's plain LoRA layers compute as one function; afterwards they are PEFT's as before.

    Only the class of these modules changes, so their weights, hooks, names and saved files are not touched. A layer, or
    a call, that the function is not made for takes PEFT's forward (see `FusedLinear`). What is yielded is how many
    layers compute so; none where it is not enabled.
    """
    layers = [module for module in model.modules() if enabled and is_plain(module) and type(module) is lora.Linear]
    return of_class(layers, FusedLinear)


def is_plain(module: nn.Module) -> bool:
    """Whether this is PEFT's LoRA on an ordinary linear layer: not on Conv1D, an embedding or packed weights."""
    return type(module) in (lora.Linear, FusedLinear) and type(module.base_layer) in (nn.Linear, FrozenLinear)


class FusedLinear(lora.Linear):
    """PEFT's LoRA on a linear layer, with the forward pass of `heft.training.fused_lora` where that is the same."""

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """As PEFT's: disabled, merged or no adapters, one for each row, variants such as DoRA, dropout, biases of
        LoRA's own, weights of the base that train and hooks within the layer are all PEFT's to compute."""
        base, names = self.base_layer, [name for name in self.active_adapters if name in self.lora_A]
        dtype = dtype_of_products(x, base.weight)
        plain_call = names and dtype is not None and not (args or kwargs)
        if not plain_call or not self.is_frozen_and_whole() or not self._are_undropped(names, dtype):
            return super().forward(x, *args, **kwargs)
        bias = None if base.bias is None else base.bias.to(dtype)
        scales = tuple(float(self.scaling[name]) for name in names)
        factors = [held[name].weight for name in names for held in (self.lora_A, self.lora_B)]
        mask_RN = self._mask(names, x.shape, dtype)
        return _FusedLora.apply(x.to(dtype), base.weight.to(dtype), bias, scales, mask_RN, *factors)

    def _mask(self, names: list[str], shape: torch.Size, dtype: torch.dtype) -> torch.Tensor | None:
        """1 where a rank's adapter acts on a token, else 0: (R, N); None where all act on all tokens."""
        device = self.base_layer.weight.device
        variants = [self.lora_variant.get(name) for name in names]
        flags = [None if each is None else each.flags(shape, device) for each in variants]
        if all(each is None for each in flags):
            return None
        everywhere_N = torch.ones(shape[:-1].numel(), dtype=torch.bool, device=device)
        parts = zip(flags, (self.lora_A[name].weight.shape[0] for name in names), strict=True)
        return torch.cat([(everywhere_N if each is None else each).expand(rank, -1) for each, rank in parts]).to(dtype)

    def is_frozen_and_whole(self) -> bool:
        """Whether the base layer is a plain frozen tensor, without hooks or merged adapters."""
        base = self.base_layer
        frozen = not base.weight.requires_grad and (base.bias is None or not base.bias.requires_grad)
        local = type(base.weight) in (nn.Parameter, torch.Tensor)  # not a shard of one, not packed
        return frozen and local and not (self.disable_adapters or self.merged or has_hooks(base))

    def _are_undropped(self, names: list[str], dtype: torch.dtype) -> bool:
        """Whether these adapters are plain products, of weights that lose nothing but rounding in that dtype."""
        for name in names:
            down, up, dropout = self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
            has_another_form = not isinstance(self.lora_variant.get(name), ActivatedVariant | None)
            if has_another_form or down.bias is not None or up.bias is not None:
                return False
            if not isinstance(dropout, nn.Identity) and dropout.training:
                return False
            if any(part.weight.dtype not in (torch.float32, dtype) or has_hooks(part) for part in (down, up)):
                return False
        return self.cast_input_dtype_enabled


def dtype_of_products(x: torch.Tensor, weight: torch.Tensor) -> torch.dtype | None:
    """What the base layer multiplies in: its weights' dtype, or that of autocast where it is on.

    None where it could not, or in float16, whose range is too small for what PEFT computes in float32.
    """
    kind, dtype = x.device.type, weight.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    elif x.dtype != dtype:
        return None
    return dtype if dtype in (torch.bfloat16, torch.float32, torch.float64) else None


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of this module does more than its class does."""
    held = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(held) or "forward" in module.__dict__


class _FusedLora(torch.autograd.Function):
    """x Wᵀ + b + Σ sᵢ (Mᵢ x Aᵢᵀ) Bᵢᵀ, with gradients for x and for those of Aᵢ and Bᵢ that train.

    Mᵢ keeps the tokens that an adapter acts on, and all where there is no mask.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, scales, mask_RN, *factors):
        downs, ups = factors[::2], factors[1::2]
        down_RI = _joined(downs, 0).to(x.dtype)
        up_OR = _joined([up * scale for up, scale in zip(ups, scales, strict=True)], 1).to(x.dtype)
        x_NI = x.reshape(-1, x.shape[-1])
        hidden_RN = down_RI @ x_NI.t()
        if mask_RN is not None:
            hidden_RN *= mask_RN
        y = base_product(x, weight, bias)
        y.view(-1, len(weight)).addmm_(hidden_RN.t(), up_OR.t())
        trains_down, trains_up = any(ctx.needs_input_grad[5::2]), any(ctx.needs_input_grad[6::2])
        kept = (x_NI if trains_down else None, hidden_RN if trains_up else None)
        ctx.save_for_backward(weight, down_RI, up_OR, mask_RN, *kept)
        ctx.scales, ctx.ranks, ctx.shape = scales, [down.shape[0] for down in downs], x.shape
        ctx.dtypes = [factor.dtype for factor in factors]
        return y

    @staticmethod
    def backward(ctx, grad):
        weight, down_RI, up_OR, mask_RN, x_NI, hidden_RN = ctx.saved_tensors
        grad_NO, grad_x = grad.reshape(-1, grad.shape[-1]), None
        grads_down = grads_up = [None] * len(ctx.scales)
        into_RN = up_OR.t() @ grad_NO.t() if ctx.needs_input_grad[0] or x_NI is not None else None
        if into_RN is not None and mask_RN is not None:
            into_RN *= mask_RN
        if ctx.needs_input_grad[0]:
            grad_x = input_gradient(grad_NO, weight).addmm_(into_RN.t(), down_RI).view(ctx.shape)
        if x_NI is not None:
            grads_down = (into_RN @ x_NI).split(ctx.ranks)
        if hidden_RN is not None:
            parts_RO = (hidden_RN @ grad_NO).split(ctx.ranks)
            in_full = zip(parts_RO, ctx.dtypes[1::2], ctx.scales, strict=True)
            grads_up = [part.t().to(dtype) * scale for part, dtype, scale in in_full]
        grads = [each for pair in zip(grads_down, grads_up, strict=True) for each in pair]
        wanted = zip(grads, ctx.dtypes, ctx.needs_input_grad[5:], strict=True)
        return grad_x, None, None, None, None, *(grad.to(dtype) if needed else None for grad, dtype, needed in wanted)


def base_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x Wᵀ + b. No view: autograd gets it, and others may alter it in place."""
    if is_faster_in_onednn(x, weight):
        return product(x, weight, bias)
    y = x.new_empty(*x.shape[:-1], len(weight))
    x_NI, y_NO = x.reshape(-1, x.shape[-1]), y.view(-1, len(weight))
    if bias is None:
        torch.mm(x_NI, weight.t(), out=y_NO)
    else:
        torch.addmm(bias, x_NI, weight.t(), out=y_NO)
    return y


def _joined(parts: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)
