"""LoRA of many configurations in one pass: the frozen product once for all tokens, each low-rank branch for its own.

In a pass of a sweep every token belongs to one configuration. A module's branches are computed as one batched product
over configurations, each on its own tokens, gathered and added back, so a branch costs what it costs alone however many
there are; masked over all tokens (heft.training.fused_lora) it would cost as many times as much. Ranks that differ are
filled up with zeros. Which tokens are whose is worked out once a pass. PEFT's own layers, each branch by the variant
that heft.alora gave it, compute the same to rounding; they are taken where a module is not an ordinary frozen linear
one, and where the stage has `fused: false`.

Shapes: N tokens of the pass; K configurations that a module has, M tokens of each (filled up with token 0, which then
counts nothing); I inputs, O outputs, R the largest rank; F ranks of frozen adapters of earlier stages together.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from heft.adapters.lora import without_tokens
from heft.alora.variant import ActivatedVariant, rows_of_a_token, takes_variants
from heft.edits.positions import Positions
from heft.errors import HeftError
from heft.models.frozen_linear import input_gradient
from heft.models.other_class import of_class
from heft.recipe.grid import Configuration
from heft.recipe.recipe import LoraStage
from heft.reft.layout import TokenLayout
from heft.reft.tracker import ForwardTracker
from heft.training.fused_lora import FusedLinear, base_product, dtype_of_products, has_hooks, is_plain

_INSTEAD = "Leave it out of the targets, or train the configurations one by one with heft train"


@dataclass(frozen=True)
class Group:
    """The tokens of the configurations that have a branch on a module.

    Attributes:
        names: of their adapters, those without a token left out.
        counts: tokens of each.
        index_L: of all K·M tokens, flat.
        own_KM1: 1 for a configuration's own tokens, 0 for what fills up; None where nothing fills up.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    index_L: torch.Tensor
    own_KM1: torch.Tensor | None


@dataclass
class Grouping:
    """Groups of the pass now running, each found once."""

    tracker: ForwardTracker
    _layout: TokenLayout | None = None
    _groups: dict[tuple, Group] = field(default_factory=dict)

    def of(self, names: Sequence[str], positions: Sequence[Positions], device: torch.device) -> Group:
        """As `group_of`."""
        if self._layout is not self.tracker.layout:
            self._layout, self._groups = self.tracker.layout, {}
        key = (*names, *positions)
        if key not in self._groups:
            self._groups[key] = group_of(self.tracker, names, positions, device)
        return self._groups[key]


def group_of(
    tracker: ForwardTracker, names: Sequence[str], positions: Sequence[Positions], device: torch.device
) -> Group:
    """The group, in the pass now running, of adapters that act on these positions of their own tokens."""
    found = {
        name: tracker.edited_indices(where, "shared", device, name)
        for name, where in zip(names, positions, strict=True)
    }
    found = {name: index for name, index in found.items() if index.numel()}
    counts = tuple(len(index) for index in found.values())
    if len(set(counts)) < 2:
        index_L = torch.cat(list(found.values())) if found else torch.empty(0, dtype=torch.long, device=device)
        return Group(tuple(found), counts, index_L, None)
    index_KM = nn.utils.rnn.pad_sequence(list(found.values()), batch_first=True)
    lengths = torch.tensor(counts, device=device)
    own_KM = torch.arange(index_KM.shape[1], device=device) < lengths[:, None]
    return Group(tuple(found), counts, index_KM.flatten(), own_KM[..., None])


def require_apart(model: PreTrainedModel, tried: Sequence[Configuration]) -> None:
    """Require that every module that LoRA configurations adapt shows which of its rows is which token's.

    Raises:
        HeftError: some do not; it names them.
    """
    stages = [configuration.stage for configuration in tried if configuration.stage.method == "lora"]
    found = {name: why for stage in _of_unlike_targets(stages) for name, why in without_tokens(model, stage).items()}
    if found:
        listed = "; ".join(f"{name}: {why}" for name, why in sorted(found.items()))
        raise HeftError(f"a sweep runs configurations side by side, which LoRA cannot do on {listed}. {_INSTEAD}")


def _of_unlike_targets(stages: Sequence[LoraStage]) -> list[LoraStage]:
    return list({stage.model_dump_json(include={"targets", "exclude"}): stage for stage in stages}.values())


def keep_apart(model: nn.Module, tracker: ForwardTracker, name: str) -> None:
    """Let a LoRA adapter of all tokens act on those tokens only that are its own where several run side by side.

    Raises:
        HeftError: it adapts a module that does not ask which token is whose.
    """
    for path, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or name not in layer.r or name in layer.lora_variant:
            continue
        if not takes_variants(layer):
            raise HeftError(f"a sweep runs configurations side by side, which LoRA cannot do on {path}. {_INSTEAD}")
        layer.lora_variant[name] = ActivatedVariant(tracker, layer, name, Positions(all_tokens=True))


@contextmanager
def packed_lora(model: nn.Module, tracker: ForwardTracker, enabled: bool = True) -> Iterator[int]:
    """Inside, LoRA layers with configurations that run side by side compute as the module's text says.

    As in `fused_lora`, only the class of these modules changes.

    Yields:
        How many layers compute so; none where it is not enabled.
    """
    numbered = tracker.adapter_index
    layers = [m for m in model.modules() if enabled and is_plain(m) and any(name in numbered for name in m.lora_A)]
    grouping = Grouping(tracker)
    with of_class(layers, PackedLinear):
        for layer in layers:
            layer.grouping = grouping
        try:
            yield len(layers)
        finally:
            for layer in layers:
                del layer.grouping


class PackedLinear(FusedLinear):
    """PEFT's LoRA on a linear layer, where each token may have a configuration of its own."""

    grouping: Grouping

    def forward(self, x: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """As PEFT's, which computes whatever this is not made for (see `FusedLinear.forward`). In a pass of no
        configuration, such as that of a prefix, no branch is computed."""
        tracker, dtype = self.grouping.tracker, dtype_of_products(x, self.base_layer.weight)
        active = [name for name in self.active_adapters if name in self.lora_A]
        own = [name for name in active if name in tracker.adapter_index]
        shared = [name for name in active if name not in tracker.adapter_index]
        plain_call = own and dtype is not None and not (args or kwargs)
        if not plain_call or not self.is_frozen_and_whole() or not self._are_undropped(shared, dtype):
            return super().forward(x, *args, **kwargs)
        if not self.are_products(own, dtype) or rows_of_a_token(x.shape, tracker.layout.index_BT.shape) != 1:
            return super().forward(x, *args, **kwargs)
        positions = [self.lora_variant[name].positions for name in own]
        group = self.grouping.of(own, positions, x.device)
        bias = None if self.base_layer.bias is None else self.base_layer.bias.to(dtype)
        frozen = self._frozen(shared, x.shape, dtype)
        scales = tuple(float(self.scaling[name]) for name in group.names)
        factors = [held[name].weight for held in (self.lora_A, self.lora_B) for name in group.names]
        kept_KMI = self._kept(group, x.shape[-1], x.device, dtype)
        return _PackedLora.apply(
            x.to(dtype), self.base_layer.weight.to(dtype), bias, frozen, group, kept_KMI, scales, *factors
        )

    def are_products(self, names: Sequence[str], dtype: torch.dtype) -> bool:
        """Whether configurations' branches are plain products, dropout of their input aside."""
        parts = [(self.lora_A[name], self.lora_B[name]) for name in names]
        if not all(isinstance(self.lora_variant.get(name), ActivatedVariant) for name in names):
            return False
        return self.cast_input_dtype_enabled and not any(
            part.bias is not None or part.weight.dtype not in (torch.float32, dtype) or has_hooks(part)
            for pair in parts
            for part in pair
        )

    def _frozen(self, names: Sequence[str], shape: torch.Size, dtype: torch.dtype) -> tuple | None:
        """A (F, I), sB (O, F) and mask (F, N) of the adapters of earlier stages; None where there are none."""
        if not names:
            return None
        down_FI = torch.cat([self.lora_A[name].weight for name in names]).to(dtype)
        up_OF = torch.cat([self.lora_B[name].weight * float(self.scaling[name]) for name in names], 1).to(dtype)
        return down_FI.detach(), up_OF.detach(), self._mask(list(names), shape, dtype)

    def _kept(self, group: Group, inputs: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor | None:
        """What dropout multiplies each input by, (K, M, I); None where nothing is dropped. Each configuration draws for
        its own tokens in their order."""
        modules = [self.lora_dropout[name] for name in group.names]
        if not any(isinstance(module, nn.Dropout) and module.training for module in modules):
            return None
        kept_KMI = torch.ones(len(modules), max(group.counts), inputs, device=device, dtype=dtype)
        for rows, count, module in zip(kept_KMI, group.counts, modules, strict=True):
            rows[:count] = module(rows[:count])
        return kept_KMI


class _PackedLora(torch.autograd.Function):
    """x Wᵀ + b, the update of earlier stages' adapters, and each configuration's for its own tokens; gradients for x
    and for the configurations' A and B, which are given in this order."""

    @staticmethod
    def forward(ctx, x, weight, bias, frozen, group, kept_KMI, scales, *factors):
        x_NI = x.reshape(-1, x.shape[-1])
        y = base_product(x, weight, bias)
        y_NO = y.view(-1, len(weight))
        if frozen is not None:
            down_FI, up_OF, mask_FN = frozen
            hidden_FN = down_FI @ x_NI.t()
            y_NO.addmm_((hidden_FN if mask_FN is None else hidden_FN * mask_FN).t(), up_OF.t())
        ctx.frozen, ctx.group, ctx.scales, ctx.shape = frozen, group, scales, x.shape
        ctx.about = [(factor.shape, factor.dtype) for factor in factors]
        ctx.save_for_backward(weight)
        if not group.names:
            return y
        count = len(group.names)
        down_KRI = stacked(factors[:count]).to(x.dtype)
        up_KRO = stacked([u.t() * scale for u, scale in zip(factors[count:], scales, strict=True)]).to(x.dtype)
        hidden_KMR = _own(_gathered(x_NI, group, kept_KMI) @ down_KRI.mT, group)
        y_NO.index_add_(0, group.index_L, (hidden_KMR @ up_KRO).flatten(0, 1))
        ctx.save_for_backward(weight, down_KRI, up_KRO, kept_KMI, x_NI, hidden_KMR)
        return y

    @staticmethod
    def backward(ctx, grad):
        weight, *of_group = ctx.saved_tensors
        grad_NO, grad_x = grad.reshape(-1, grad.shape[-1]), None
        if ctx.needs_input_grad[0]:
            grad_x = input_gradient(grad_NO, weight)
            if ctx.frozen is not None:
                down_FI, up_OF, mask_FN = ctx.frozen
                into_FN = up_OF.t() @ grad_NO.t()
                grad_x.addmm_((into_FN if mask_FN is None else into_FN * mask_FN).t(), down_FI)
        grads = []
        if of_group:
            down_KRI, up_KRO, kept_KMI, x_NI, hidden_KMR = of_group
            grad_KMO = _gathered(grad_NO, ctx.group, None)
            into_KMR = _own(grad_KMO @ up_KRO.mT, ctx.group)
            if grad_x is not None:
                back_KMI = into_KMR @ down_KRI
                back_KMI = back_KMI if kept_KMI is None else back_KMI * kept_KMI
                grad_x.index_add_(0, ctx.group.index_L, back_KMI.flatten(0, 1))
            grads_down = into_KMR.mT @ _gathered(x_NI, ctx.group, kept_KMI)
            grads_up = grad_KMO.mT @ hidden_KMR
            downs = zip(grads_down, ctx.about, strict=False)
            ups = zip(grads_up, ctx.scales, ctx.about[len(grads_down) :], strict=True)
            grads = [part[: shape[0]].to(dtype) for part, (shape, dtype) in downs]
            grads += [part[:, : shape[1]].to(dtype) * scale for part, scale, (shape, dtype) in ups]
        return (None if grad_x is None else grad_x.view(ctx.shape), *[None] * 6, *grads)


def _gathered(rows_ND: torch.Tensor, group: Group, kept_KMD: torch.Tensor | None) -> torch.Tensor:
    """(K, M, D): each configuration's rows."""
    rows_KMD = rows_ND.index_select(0, group.index_L).view(len(group.names), -1, rows_ND.shape[1])
    return rows_KMD if kept_KMD is None else rows_KMD * kept_KMD


def _own(rows_KMR: torch.Tensor, group: Group) -> torch.Tensor:
    """Zero where a row only fills up."""
    return rows_KMR if group.own_KM1 is None else rows_KMR * group.own_KM1


def stacked(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Matrices as one tensor, filled up with rows of zeros to the most rows."""
    most = max(len(part) for part in parts)
    filled = [part if len(part) == most else nn.functional.pad(part, (0, 0, 0, most - len(part))) for part in parts]
    return torch.stack(filled)
