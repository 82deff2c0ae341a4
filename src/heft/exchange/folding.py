"""An edit of all tokens as part of the linear layer whose output it edits.

For a layer h = xMᵀ + c and an edit h + (Ah + b)B (row vectors; LoReFT: A = W − R, B = R), the edited output is that of
a layer with weight M + BᵀAM and bias c + Bᵀ(Ac + b). Shapes: M (d, i), A and B (r, d), b (r,), c (d,).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from heft.adapters.attach import base_alone
from heft.adapters.detach import detach
from heft.adapters.lora_targets import shared_weights
from heft.errors import HeftError
from heft.exchange.biases import give_biases, why_no_bias
from heft.exchange.refusals import folding_refusal
from heft.reft.editable import runs_small_batch
from heft.reft.layer import layers_of


@dataclass(frozen=True)
class FoldPlan:
    """Which ReFT adapters become part of weights, and which stay beside the model.

    Attributes:
        linears: name of the linear layer of every site of the adapters that fold, by the site's name.
        folds: adapters that do, in their order.
        reasons: why the others do not, by adapter.
    """

    linears: dict[str, str]
    folds: list[str]
    reasons: dict[str, str]


@dataclass(frozen=True)
class Affine:
    """What a fold does to a linear layer's output h: h + (Ah + b)B, in float64."""

    matrix: torch.Tensor
    bias: torch.Tensor
    basis: torch.Tensor

    def weight_update(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """AM (r, i) and Bᵀ (d, r), whose product is what is added to M (d, i)."""
        return self.matrix @ weight.double(), self.basis.T

    def bias_update(self, bias: torch.Tensor | None) -> torch.Tensor:
        """Bᵀ(Ac + b) (d,), what is added to c; c is None where there is none."""
        read = self.bias if bias is None else self.matrix @ bias.double() + self.bias
        return self.basis.T @ read


def plan_folding(model: PreTrainedModel, needs_bias: bool = True) -> FoldPlan:
    """Which of the ReFT adapters that a model carries fold exactly into its linear layers, LoRA included.

    `needs_bias`: whether a constant part needs a bias of the model's own layer, and not of something beside it.
    """
    sites = {path.removesuffix(".reft"): layer for path, layer in layers_of(model).items()}
    paths = {id(module): path.removesuffix(".base_layer") for path, module in model.named_modules()}
    behind = linears_behind(model, list(sites)) if sites else {}
    linears = {site: paths[id(each)] for site, each in behind.items() if isinstance(each, nn.Module)}
    for site in [site for site, linear in linears.items() if linear in shared_weights(model)]:
        behind[site] = f"and {linears.pop(site)} shares its weights with another layer"
    folds, reasons, unfolded = [], {}, set()
    for name, config in model.peft_config.items():
        own = [site for site, layer in sites.items() if name in layer.positions]
        if not own:
            continue
        reason = folding_refusal(name, config) or _no_linear(name, own, behind) or _out_of_order(name, own, unfolded)
        if reason is None and needs_bias:
            edits = edits_of(model, FoldPlan(linears, [], {}), name)
            reason = why_no_bias(model, _without_bias(model, edits), name)
        if reason is None:
            folds.append(name)
        else:
            reasons[name] = reason
            unfolded.update(own)
    return FoldPlan(linears, folds, reasons)


def _no_linear(name: str, sites: Sequence[str], behind: dict[str, nn.Module | str]) -> str | None:
    for site in sites:
        if not isinstance(behind[site], nn.Module):
            return f"{name} edits {site}, {behind[site]}"
    return None


def _out_of_order(name: str, sites: Sequence[str], unfolded: set[str]) -> str | None:
    behind = [site for site in sites if site in unfolded]
    return f"{name} edits {behind[0]} after another adapter that stays beside the model" if behind else None


@torch.no_grad()
def fold(model: PreTrainedModel, plan: FoldPlan) -> None:
    """Make the adapters of a plan part of the weights, and take them off."""
    for name in plan.folds:
        edits = edits_of(model, plan, name)
        give_biases(model, _without_bias(model, edits))
        for linear, edit in edits.items():
            module = model.get_submodule(linear)
            weight = weight_of(module)
            down, up = edit.weight_update(weight)
            updated, constant = weight.double() + up @ down, edit.bias_update(module.bias)
            module.weight.copy_(updated.T if isinstance(module, Conv1D) else updated)
            if module.bias is not None:
                module.bias.copy_(module.bias.double() + constant)
    detach(model, plan.folds)


def edits_of(model: PreTrainedModel, plan: FoldPlan, name: str) -> dict[str, Affine]:
    """What an adapter does to the outputs of linear layers, by their names."""
    found = {}
    for path, layer in layers_of(model).items():
        if name in layer.positions:
            found[plan.linears[path.removesuffix(".reft")]] = Affine(*layer.reft_shared[name].affine())
    return found


@torch.no_grad()
def linears_behind(model: PreTrainedModel, sites: Sequence[str]) -> dict[str, nn.Module | str]:
    """The linear layer whose output is a site's output, by the site's name; why there is none, in words.

    A forward pass shows it: the site gives away the very tensor that the layer returned, unchanged.
    """
    seen: dict[str, list] = {site: [] for site in sites}
    given: dict[str, torch.Tensor] = {}
    handles = []
    for site in sites:
        module = model.get_submodule(site)
        for part in module.modules():
            if isinstance(part, nn.Linear | Conv1D):
                keep = seen[site].append
                handles.append(
                    part.register_forward_hook(
                        lambda module, _, output, keep=keep: keep((module, output, output._version))
                    )
                )
        handles.append(
            module.register_forward_hook(lambda module, _, output, site=site: given.update({site: _tensor(output)}))
        )
    try:
        with base_alone(model):
            ran = runs_small_batch(model)
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise HeftError("the model does not run on a small batch, so it is not known which layers its edits are of")
    return {site: _linear_of(given[site], seen[site]) for site in sites}


def _linear_of(output: torch.Tensor, calls: list) -> nn.Module | str:
    last = [module for module, tensor, version in calls if tensor is output and output._version == version]
    if not last:
        return "whose output is computed further after its last linear layer"
    if sum(module is last[-1] for module, *_ in calls) > 1:
        return "whose last linear layer is computed several times in a pass"
    return last[-1]


def _tensor(output) -> torch.Tensor:
    return output[0] if isinstance(output, tuple | list) else output


def _without_bias(model: PreTrainedModel, edits: dict[str, Affine]) -> list[str]:
    """Names of the linear layers without a bias to whose outputs edits add a constant."""
    missing = [linear for linear in edits if linear_of(model, linear).bias is None]
    return [linear for linear in missing if edits[linear].bias_update(None).abs().max() > 0]


def linear_of(model: PreTrainedModel, name: str) -> nn.Module:
    """The linear layer of that name, without adapters on it."""
    module = model.get_submodule(name)
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def weight_of(module: nn.Module) -> torch.Tensor:
    """A linear layer's weight (d, i), as nn.Linear keeps it."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight
