"""The low-rank update of one module, added for the tokens of an adapter's positions: a variant of PEFT's LoRA layer.

PEFT's layer asks it in its forward pass, after the base's own product. Shapes: N tokens of the pass (B·T, flattened),
s rows that a module's input has for each token (one, nearly always), I inputs and O outputs of the module.
"""

import math
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant
from torch import nn

from heft.edits.positions import Positions
from heft.reft.tracker import ForwardTracker

NOT_MERGED = (
    "a LoRA adapter with positions acts on some tokens only, so it cannot be merged into weights, which act on all:"
    " keep it attached, or merge the adapters of all tokens alone with adapter_names=[...]"
)

_TAKE_VARIANTS = ("Linear", "Linear8bitLt", "Linear4bit")
"""PEFT's layers whose forward pass asks a variant: its own on linear modules, plain and of bitsandbytes."""


class ActivatedVariant(LoraVariant):
    """One adapter's update of one module; PEFT keeps it in `module.lora_variant[adapter_name]`."""

    def __init__(self, tracker: ForwardTracker, module: LoraLayer, adapter_name: str, positions: Positions):
        self.positions, self._tracker = positions, tracker
        self._module, self._name = module, adapter_name
        tracker.branches.append(self)

    def is_there(self) -> bool:
        """Whether the module still has it."""
        return self._module.lora_variant.get(self._name) is self

    def is_active(self) -> bool:
        """Whether a forward pass adds it now."""
        module = self._module
        return self.is_there() and not module.disable_adapters and self._name in module.active_adapters

    def supports_lora_conversion(self) -> bool:
        """False: it is no update of all tokens."""
        return False

    def init(self, module: LoraLayer, adapter_name: str, **kwargs: Any) -> None:
        """Nothing: its weights are those of plain LoRA."""

    def merge_safe(self, module: LoraLayer, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError(NOT_MERGED)

    merge_unsafe = unmerge = merge_safe

    def flags(self, shape: torch.Size, device: torch.device) -> torch.Tensor | None:
        """Bool (N·s,): which rows of an input of that shape (…, I) it acts on; None where these are all."""
        inner = rows_of_a_token(shape, self._tracker.layout.index_BT.shape)
        flags_N = self._tracker.acted_on(self.positions, device, self._name)
        return flags_N if flags_N is None or inner == 1 else flags_N.repeat_interleave(inner)

    def forward(
        self, module: LoraLayer, active_adapter: str, x: torch.Tensor, result: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """`result` (…, O) with the update of `x` (…, I) added for the tokens of its positions.

        Raises:
            ValueError: the input has no row for each token of the pass.
        """
        down, up = module.lora_A[active_adapter], module.lora_B[active_adapter]
        dropout, scale = module.lora_dropout[active_adapter], module.scaling[active_adapter]
        if torch.compiler.is_compiling():  # how many tokens there are would depend on values
            flags = self.flags(x.shape, x.device).view(*x.shape[:-1], 1)
            return torch.where(flags, result + up(down(dropout(x))) * scale, result).to(result.dtype)
        inner = rows_of_a_token(x.shape, self._tracker.layout.index_BT.shape)
        index_N = self._tracker.edited_indices(self.positions, "shared", x.device, active_adapter)
        if not index_N.numel():
            return result
        if inner > 1:
            index_N = (index_N[:, None] * inner + torch.arange(inner, device=index_N.device)).flatten()
        result_NO = result.reshape(-1, result.shape[-1])
        updated = result_NO[index_N] + up(down(dropout(x.reshape(-1, x.shape[-1])[index_N]))) * scale
        return result_NO.index_copy(0, index_N, updated.to(result.dtype)).view_as(result)


def takes_variants(layer: nn.Module) -> bool:
    """Whether a LoRA layer of PEFT, or one that stands for it while a stage trains, asks a variant."""
    is_pefts = (each.__module__.startswith("peft.") and each.__name__ in _TAKE_VARIANTS for each in type(layer).__mro__)
    return any(is_pefts)


class NoRowOfToken(ValueError):
    """A module's input has rows of which it cannot be told to which token they belong; `reason` says so alone."""

    def __init__(self, reason: str):
        super().__init__(f"{reason}. Leave the module out (targets, exclude), or use positions: all")
        self.reason = reason


def rows_of_a_token(shape: torch.Size, tokens_BT: torch.Size) -> int:
    """s of an input of a shape (B, T, I), (B, T, s, I), (B·T, I) or (B·T, s, I).

    Raises:
        NoRowOfToken: it is none of these.
    """
    leading, tokens = tuple(shape[:-1]), math.prod(tokens_BT)
    if leading[:2] == tuple(tokens_BT):
        return math.prod(leading[2:])
    if leading and leading[0] == tokens:
        return math.prod(leading[1:])
    raise NoRowOfToken(
        f"the input of a module that LoRA adapts has shape {tuple(shape)}, and the pass {tokens_BT[0]} rows of"
        f" {tokens_BT[1]} tokens: which token a row of it belongs to cannot be told"
    )
