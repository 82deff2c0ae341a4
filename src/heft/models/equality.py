"""Whether a fast path gives what the plain one gives, as far as rounding can tell."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from heft.runtime.memory_errors import is_out_of_memory

TIMES = 5
"""A plain path in other batches differs by rounding alone; a fast one may by so many times that."""
MOST = 1e-1
"""As a share of a value, what is taken for rounding at most; beyond it a mistake could hide."""
NOISE_TIMES, NOISE_MOST = 2, 5e-1
"""The same where it is known how far rounding moves values. In bfloat16 a trained SmolLM2's log-likelihoods of BoolQ
answers were seen off by 0.1 to 0.5 from float32's, and moved as far by another rounding of the embeddings."""


def rounding(dtype: torch.dtype) -> float:
    """What may differ in any case, as a share of a value, or of 1 if that is more.

    Sums in another order were seen to change 1e-6 in float32. bfloat16 has 8 bits: LoRA computed in it instead of
    float32 was seen to change SmolLM2's loss and gradient on two rows by 2 to 6 percent.
    """
    return 1e-4 if dtype.itemsize >= 4 else 1e-1


def noise_of(values: Sequence[float], again: Sequence[float]) -> float:
    """The farthest that one of these is from what it was, as a share of it, or of 1 if that is more."""
    return max(abs(b - a) / max(1.0, abs(a)) for a, b in zip(values, again, strict=True))


@contextmanager
def rounded_otherwise(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model's embeddings are off by as much as rounding them once is, the same every time."""
    numbers = torch.Generator().manual_seed(0)

    def shake(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        drawn = (2 * torch.rand(output.shape, generator=numbers) - 1).to(output.device)
        return (output.double() * (1 + torch.finfo(output.dtype).eps / 2 * drawn)).to(output.dtype)

    hook = model.get_input_embeddings().register_forward_hook(shake)
    try:
        yield
    finally:
        hook.remove()


def why_unequal(
    fast: Callable[[], Sequence[float]],
    plain: Sequence[float],
    plain_again: Sequence[float],
    dtype: torch.dtype,
    noise: float = 0.0,
) -> str | None:
    """Why a fast path is not to be taken, in words; None where it gives what the plain path gives.

    Args:
        fast: computes its values; whatever it raises counts against it, but for lack of memory, which says nothing.
        plain: values of the plain path.
        plain_again: the same, computed in other batches.
        dtype: that the model computes in.
        noise: as a share of a value, or of 1 if that is more, how far rounding is known to move some of them.
    """
    if not all(map(math.isfinite, (*plain, *plain_again))):
        return None  # nothing can be told, and what uses the plain path says what is wrong with it
    try:
        values = fast()
    except Exception as error:  # of a path that a model does not bear anything may be raised
        return None if is_out_of_memory(error) else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    share = max(rounding(dtype), min(NOISE_TIMES * noise, NOISE_MOST))
    for value, expected, again in zip(values, plain, plain_again, strict=True):
        scale, difference = max(1.0, abs(expected)), abs(value - expected)
        in_other_batches = min(TIMES * abs(again - expected), MOST * scale)
        if not difference <= max(share * scale, in_other_batches):
            return f"it differs from the plain path by {difference:.2g} of {scale:.3g}"
    return None
