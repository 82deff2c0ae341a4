"""The same trained weights for every library at the start, so that first losses can be compared.

They are away from the identity on purpose: at the identity every library has the base model's loss, edits or not.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

LORA_SCALE = 0.02
LOREFT_SCALE = 0.1


def fill_lora(model: torch.nn.Module) -> None:
    """Give the model's LoRA factors, in the order of its modules, seeded values."""
    factors = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    if not factors:
        raise ValueError("the model has no LoRA factors")
    with torch.no_grad():
        for seed, factor in enumerate(factors):
            factor.copy_(LORA_SCALE * _normal(seed, *factor.shape))


@dataclass(frozen=True)
class LoReft:
    """Weights of h + (Wh + b − Rh)R in one layer: W and R (r, d), b (r,); R has orthonormal rows."""

    weight: torch.Tensor
    bias: torch.Tensor
    rotation: torch.Tensor


def loreft_layers(layers: int, hidden_size: int, rank: int) -> Iterator[LoReft]:
    """Seeded weights for each layer."""
    for layer in range(layers):
        rotation = torch.linalg.qr(_normal(3 * layer, hidden_size, rank).double()).Q.T.float().contiguous()
        weight = rotation + LOREFT_SCALE * _normal(3 * layer + 1, rank, hidden_size) / hidden_size**0.5
        yield LoReft(weight, LOREFT_SCALE * _normal(3 * layer + 2, rank), rotation)


def _normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
