"""LoRA branches of frozen adapters, for passes that give nothing back: with little else than their products.

A token of a running text costs a module one row of its frozen product. Beside that, working out anew which adapters a
module has, whose tokens are whose, and what the scaled weights of the branches are, takes longer than the product.
Here the weights are stacked when the ways are switched on, and who is whose is found once a pass for all modules that
have the same adapters. Where one adapter acts on all tokens its branch is two products. Where several do and tokens are
few, the branches are two products over the ranks of all of them, and a mask leaves each token its own; where tokens are
many, one batched product over adapters, as in `heft.sweep.packed_lora`. Ranks that differ are filled up with zeros.

The stacked weights are a second copy of those of all adapters, in the base's dtype; those of a mixed pass a third.

Shapes: N tokens of a pass; K adapters of it that act on some, M tokens of each (filled up with token 0, which then
counts nothing); I inputs, O outputs, R the largest rank of a module, C = K·R.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from heft.models.other_class import of_class
from heft.reft.layout import TokenLayout
from heft.reft.tracker import ForwardTracker
from heft.sweep.packed_lora import PackedLinear, group_of, packed_lora, stacked
from heft.training.fused_lora import dtype_of_products

FEW = 64
"""Tokens of a pass up to which a mask over all ranks is less work than gathering each adapter's tokens."""


@dataclass(frozen=True)
class Part:
    """What the modules of some adapters compute in a pass.

    Attributes:
        tokens: of the pass.
        one: the number of the adapter that acts on all tokens, where it is that simple; else None.
        numbers: of the K adapters that act on some.
        index_L: of their K·M tokens, flat.
        own_KM1: 1 for an adapter's own tokens, 0 for what fills up; None where nothing fills up.
    """

    tokens: int
    one: int | None
    numbers: tuple[int, ...]
    index_L: torch.Tensor
    own_KM1: torch.Tensor | None
    _masks: dict[tuple[int, torch.dtype], torch.Tensor] = field(default_factory=dict)

    def mask_NC(self, rank: int, dtype: torch.dtype) -> torch.Tensor:
        """1 where a rank's adapter acts on a token, else 0; the same for all modules of a rank."""
        if (rank, dtype) not in self._masks:
            adapters = len(self.numbers)
            mask_NK = torch.zeros(self.tokens, adapters, dtype=dtype, device=self.index_L.device)
            numbers_L = torch.arange(adapters, device=self.index_L.device).repeat_interleave(
                len(self.index_L) // adapters
            )
            own_L = slice(None) if self.own_KM1 is None else self.own_KM1.flatten()
            mask_NK[self.index_L[own_L], numbers_L[own_L]] = 1
            self._masks[rank, dtype] = mask_NK.repeat_interleave(rank, 1)
        return self._masks[rank, dtype]


@dataclass
class Parts:
    """Of the pass now running, each found once."""

    tracker: ForwardTracker
    _layout: TokenLayout | None = None
    _found: dict[int, Part | None] = field(default_factory=dict)

    def of(self, layer: "ServedLinear") -> Part | None:
        """A layer's, shared with all of its family; None where PEFT has something else to compute."""
        if self._layout is not self.tracker.layout:
            self._layout, self._found = self.tracker.layout, {}
        if layer.family not in self._found:
            self._found[layer.family] = self._find(layer)
        return self._found[layer.family]

    def _find(self, layer: "ServedLinear") -> Part | None:
        active = [name for name in layer.active_adapters if name in layer.lora_A]
        if layer.disable_adapters or layer.merged or not set(active) <= set(layer.names):
            return None
        device, tokens = layer.base_layer.weight.device, self._layout.index_BT.numel()
        positions = [layer.lora_variant[name].positions for name in active]
        group = group_of(self.tracker, active, positions, device)
        numbers = tuple(layer.names.index(name) for name in group.names)
        is_simple = len(numbers) == 1 and group.counts[0] == tokens
        return Part(tokens, numbers[0] if is_simple else None, numbers, group.index_L, group.own_KM1)


@contextmanager
def served_lora(model: nn.Module, tracker: ForwardTracker) -> Iterator[int]:
    """Inside, LoRA layers compute as the module's text says, those that cannot as in `packed_lora`.

    Adapters may neither come, go nor change meanwhile. Only the class of these modules changes.

    Yields:
        How many layers compute so.
    """
    with packed_lora(model, tracker):
        layers = [module for module in model.modules() if type(module) is PackedLinear and _is_simple(module, tracker)]
        parts, families = Parts(tracker), {}
        for layer in layers:
            layer.names = tuple(name for name in layer.lora_A if name in tracker.adapter_index)
            key = tuple((name, layer.lora_variant[name].positions) for name in layer.names)
            layer.parts, layer.family = parts, families.setdefault(key, len(families))
            layer.down_KIR, layer.up_KRO = _weights(layer)
            layer.chosen = (), None, None
        try:
            with of_class(layers, ServedLinear):
                yield len(layers)
        finally:
            for layer in layers:
                del layer.names, layer.parts, layer.family, layer.down_KIR, layer.up_KRO, layer.chosen


def _is_simple(layer: PackedLinear, tracker: ForwardTracker) -> bool:
    names = [name for name in layer.lora_A if name in tracker.adapter_index]
    dtype = dtype_of_products(layer.base_layer.weight, layer.base_layer.weight)
    return dtype is not None and layer.is_frozen_and_whole() and layer.are_products(names, dtype)


def _weights(layer: PackedLinear) -> tuple[torch.Tensor, torch.Tensor]:
    """Aᵀ (K, I, R) and sBᵀ (K, R, O) of all adapters, in the base's dtype."""
    dtype = layer.base_layer.weight.dtype
    with torch.no_grad():
        down_KRI = stacked([layer.lora_A[name].weight for name in layer.names])
        scaled = [layer.lora_B[name].weight.t() * float(layer.scaling[name]) for name in layer.names]
        return down_KRI.mT.to(dtype).contiguous(), stacked(scaled).to(dtype)


class ServedLinear(PackedLinear):
    """PEFT's LoRA on a linear layer, where adapters are frozen and known.

    Attributes:
        names: of the adapters that are mixed with others, in the order of their weights.
        parts: of the pass.
        family: a number of layers that have the same adapters, with the same positions.
        down_KIR, up_KRO: their weights.
        chosen: numbers of the adapters of the last pass of few tokens, and Aᵀ (I, C) and sBᵀ (C, O) of all of them:
            mostly the next pass's.
    """

    names: Sequence[str]
    parts: Parts
    family: int
    down_KIR: torch.Tensor
    up_KRO: torch.Tensor
    chosen: tuple[tuple[int, ...], torch.Tensor | None, torch.Tensor | None]

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """As PEFT's, which computes whatever this is not made for."""
        plain_call = not (args or kwargs or torch.is_grad_enabled()) and x.dtype == self.down_KIR.dtype
        part = self.parts.of(self) if plain_call else None
        if part is None or x.shape[:-1].numel() != part.tokens:
            return super().forward(x, *args, **kwargs)
        y = self.base_layer(x)
        x_NI, y_NO = x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        if part.one is not None:
            y_NO.addmm_(x_NI @ self.down_KIR[part.one], self.up_KRO[part.one])
        elif part.numbers and part.tokens <= FEW:
            down_IC, up_CO = self._of_all(part.numbers)
            y_NO.addmm_((x_NI @ down_IC) * part.mask_NC(self.down_KIR.shape[-1], x.dtype), up_CO)
        elif part.numbers:
            index_K = torch.tensor(part.numbers, device=x.device)
            rows_KMI = x_NI.index_select(0, part.index_L).view(len(part.numbers), -1, x_NI.shape[1])
            hidden_KMR = rows_KMI @ self.down_KIR.index_select(0, index_K)
            if part.own_KM1 is not None:
                hidden_KMR = hidden_KMR * part.own_KM1
            y_NO.index_add_(0, part.index_L, (hidden_KMR @ self.up_KRO.index_select(0, index_K)).flatten(0, 1))
        return y

    def _of_all(self, numbers: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        if numbers != self.chosen[0]:
            index_K = torch.tensor(numbers, device=self.down_KIR.device)
            down_IC = self.down_KIR.index_select(0, index_K).transpose(0, 1).flatten(1)
            self.chosen = numbers, down_IC, self.up_KRO.index_select(0, index_K).flatten(0, 1)
        return self.chosen[1:]
