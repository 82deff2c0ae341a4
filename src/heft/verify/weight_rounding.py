"""How far logits move where weights are rounded otherwise: what merging in less than float32 may change by itself."""

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from heft.verify.logits import Rounding, apart

_TIMES = 3
"""How far merged weights may move logits, in moves of weights that are rounded otherwise at random."""


def bound_of_rounding(
    model: PreTrainedModel, rounding: Rounding, difference: float, logits_now: Callable[[], torch.Tensor]
) -> tuple[float, str]:
    """How far logits may be apart behind a merge, and why.

    In float32 rounded weights count for nothing. In less, twice the tolerance of sums in another order is allowed, and
    where a `difference` is beyond that, what was measured: how far this model's logits move on rounding.

    Args:
        model: the merged model, or the adapted one, whose weights are as large.
        rounding: of sums in another order.
        difference: that is to be judged.
        logits_now: of the probe's rows.
    """
    if model.dtype == torch.float32:
        return rounding.logits, rounding.why
    bound, why = 2 * rounding.logits, f"twice {rounding.why}, and merged weights are rounded too"
    if difference <= bound:
        return bound, why
    moved = moved_by_rounding(model, logits_now)
    if _TIMES * moved <= bound:
        return bound, why
    return _TIMES * moved, f"{_TIMES} times what weights that are rounded otherwise at random do here, {moved:.3g}"


@torch.no_grad()
def moved_by_rounding(model: PreTrainedModel, logits_now: Callable[[], torch.Tensor]) -> float:
    """How far logits move when the blocks' weights are rounded otherwise at random; weights are put back.

    Each moves by one step of its format, up or down, so often that the variance is that of rounding, a twelfth of a
    step squared.
    """
    before, generator = logits_now(), torch.Generator().manual_seed(0)
    weights = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and parameter.dtype == model.dtype and any(part.isdigit() for part in name.split("."))
    ]
    copies = [weight.detach().to("cpu", copy=True) for weight in weights]
    try:
        for weight, copy in zip(weights, copies, strict=True):
            weight.copy_(_rounded_otherwise(copy, generator))
        return apart(model, logits_now(), before)
    finally:
        for weight, copy in zip(weights, copies, strict=True):
            weight.copy_(copy)


def _rounded_otherwise(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    number, draws = weight.float(), torch.rand(weight.shape, generator=generator)
    step = torch.finfo(weight.dtype).eps * torch.exp2(torch.frexp(number).exponent - 1.0) * (number != 0)
    return (number + step * ((draws < 1 / 24).float() - (draws > 23 / 24).float())).to(weight.dtype)
