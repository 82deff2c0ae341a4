"""LoRA adapters, and edits folded into linear layers, as one LoRA.

An edit h + (Ah + b)B of a layer with weight M adds Bᵀ(AM) to the weight, which is a LoRA of the edit's rank: its A is
AM, its B is Bᵀ, and Bᵀ(Ac + b) is the bias of its B. M is the weight with the LoRA beneath it. Ranks add up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from peft import LoraConfig, TaskType
from peft.tuners.lora import LoraLayer
from torch.nn.functional import pad
from transformers import PreTrainedModel

from heft.exchange.folding import FoldPlan, edits_of, linear_of, weight_of


@dataclass
class Factors:
    """What is added to a linear layer: the product of `up` (d, r) and `down` (r, i), and `constant` (d,)."""

    down: list[torch.Tensor] = field(default_factory=list)
    up: list[torch.Tensor] = field(default_factory=list)
    constant: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        """Of the product, at most."""
        return sum(len(each) for each in self.down)


def lora_factors(model: PreTrainedModel, names: Sequence[str]) -> dict[str, Factors]:
    """The factors of LoRA adapters that a model carries, by the names of the modules."""
    found: dict[str, Factors] = {}
    for path, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        for name in names:
            if name in layer.lora_A:
                own = found.setdefault(path, Factors())
                own.down.append(layer.lora_A[name].weight.detach().double())
                own.up.append(layer.lora_B[name].weight.detach().double() * layer.scaling[name])
    return found


def add_folded(factors: dict[str, Factors], model: PreTrainedModel, plan: FoldPlan) -> None:
    """Add what the edits of a plan do to layers whose LoRA is in `factors` already; the model is not changed.

    Edits of one layer are folded one after the other, each into the weight and bias that those before it leave.
    """
    for name in plan.folds:
        for linear, edit in edits_of(model, plan, name).items():
            module, own = linear_of(model, linear), factors.setdefault(linear, Factors())
            weight = weight_of(module).double() + sum(up @ down for up, down in zip(own.up, own.down, strict=True))
            bias = (
                own.constant
                if module.bias is None
                else module.bias.double() + (0 if own.constant is None else own.constant)
            )
            constant = edit.bias_update(bias)
            down, up = edit.weight_update(weight)
            own.down.append(down)
            own.up.append(up)
            own.constant = constant if own.constant is None else own.constant + constant


def one_lora(factors: Mapping[str, Factors]) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """PEFT's configuration and tensors, by their names in a file, of one LoRA with these factors.

    All modules have the largest rank, filled up with zeros, and scaling 1: of several ranks or alphas PEFT alone has
    the same scalings. vLLM divides one alpha by one rank, llama.cpp one alpha by each tensor's own.
    """
    has_bias = any(own.constant is not None and own.constant.abs().max() > 0 for own in factors.values())
    common = max(own.rank for own in factors.values())
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=common,
        lora_alpha=common,
        target_modules=sorted(factors),
        lora_bias=has_bias,
    )
    tensors = {}
    for name, own in factors.items():
        key = f"base_model.model.{name}"
        missing = common - own.rank
        down, up = pad(torch.cat(own.down), (0, 0, 0, missing)), pad(torch.cat(own.up, dim=1), (0, missing))
        tensors[f"{key}.lora_A.weight"] = down.float().contiguous()
        tensors[f"{key}.lora_B.weight"] = up.float().contiguous()
        if has_bias:
            constant = up.new_zeros(len(up)) if own.constant is None else own.constant
            tensors[f"{key}.lora_B.bias"] = constant.float().contiguous()
    return config, tensors
