"""Whether a fast path gives what the plain one gives, as far as rounding can tell."""

import math
from collections.abc import Callable, Sequence

from heft.memory_errors import is_out_of_memory

RELATIVE = 1e-4
"""What may differ, as a share of the largest value; sums in another order were seen to change 1e-6 in float32."""
MOST = 5e-2
"""The same for number formats of 8 bits, at most."""
TIMES = 5
"""A plain path in other batches differs by rounding alone; a fast one may by so many times that."""


def why_unequal(
    fast: Callable[[], Sequence[float]], plain: Sequence[float], plain_again: Sequence[float]
) -> str | None:
    """Why a fast path is not to be taken, in words; None where it gives what the plain path gives.

    Args:
        fast: computes its values; whatever it raises counts against it, but for lack of memory, which says nothing.
        plain: values of the plain path.
        plain_again: the same, computed in other batches.
    """
    if not all(map(math.isfinite, (*plain, *plain_again))):
        return None  # nothing can be told, and what uses the plain path says what is wrong with it
    try:
        values = fast()
    except Exception as error:  # of a path that a model does not bear anything may be raised
        return None if is_out_of_memory(error) else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    scale = max(1.0, *map(abs, plain))
    rounding = min(TIMES * _furthest(plain, plain_again), MOST * scale)
    difference = _furthest(plain, values)
    if difference <= max(RELATIVE * scale, rounding):
        return None
    return f"it differs from the plain path by {difference:.2g} of {scale:.3g}"


def _furthest(first: Sequence[float], second: Sequence[float]) -> float:
    apart = [abs(a - b) for a, b in zip(first, second, strict=True)]
    return max(apart) if all(map(math.isfinite, apart)) else math.inf
