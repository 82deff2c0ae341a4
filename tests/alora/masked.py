"""LoRA with positions written a second time: hooks on linear modules add the update where an explicit mask says."""

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D


class MaskedLora:
    """The update of adapters, read off a model that has them, on a plain model; `mask_BT` is set before each call.

    Args:
        model: a plain model, which is frozen.
        adapted: the same model with LoRA adapters.
        masks: adapter names with the columns (B, T) on which each acts, set anew by `acting_on`.
    """

    def __init__(self, model: nn.Module, adapted: nn.Module):
        self.model, self.masks = model.requires_grad_(False), {}
        self.factors: dict[str, dict[str, tuple]] = {}
        for name, layer in adapted.named_modules():
            if isinstance(layer, LoraLayer):
                name = name.removeprefix("base_model.model.")
                self.factors[name] = {
                    adapter: tuple(
                        held[adapter].weight.detach().clone().requires_grad_(True)
                        for held in (layer.lora_A, layer.lora_B)
                    )
                    + (layer.scaling[adapter],)
                    for adapter in layer.lora_A
                }
                module = model.get_submodule(name)
                assert isinstance(module, nn.Linear | Conv1D)
                module.register_forward_hook(lambda _, args, output, name=name: self._added(name, args[0], output))

    def _added(self, name, x, output):
        for adapter, (down, up, scale) in self.factors[name].items():
            mask = self.masks[adapter].reshape(*x.shape[:-1], 1).to(x.dtype)
            output = output + mask * (scale * (x @ down.T) @ up.T)
        return output

    def acting_on(self, **masks: torch.Tensor) -> "MaskedLora":
        """Set which columns (B, T) each adapter acts on."""
        self.masks = {name: mask.bool() for name, mask in masks.items()}
        return self

    def gradients(self, loss: torch.Tensor, adapter: str) -> dict[str, torch.Tensor]:
        """Gradients by module and factor."""
        keys, tensors = [], []
        for name, by_adapter in self.factors.items():
            for factor, tensor in zip("AB", by_adapter[adapter][:2], strict=True):
                keys.append(f"{name}.lora_{factor}")
                tensors.append(tensor)
        return dict(zip(keys, torch.autograd.grad(loss, tensors), strict=True))


def shaken(model: nn.Module, scale: float = 0.3) -> nn.Module:
    """No factor of LoRA is zero any more; the same at every call."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def gradients_of(model: nn.Module, loss: torch.Tensor, adapter: str) -> dict[str, torch.Tensor]:
    """As `MaskedLora.gradients`, of a model with PEFT's layers."""
    found = {
        n: p
        for n, p in model.named_parameters()
        if n.endswith((f"lora_A.{adapter}.weight", f"lora_B.{adapter}.weight"))
    }
    grads = torch.autograd.grad(loss, list(found.values()))
    keys = [n.removeprefix("base_model.model.").removesuffix(f".{adapter}.weight") for n in found]
    return dict(zip(keys, grads, strict=True))
