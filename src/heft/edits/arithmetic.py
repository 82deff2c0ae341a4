"""What of an edit's arithmetic is torch's own, and needs no PEFT; the equations are in heft.edits.equations.

Shapes: r rank, d hidden size.
"""

import torch
from torch.nn import functional as F

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


def orthonormal_rows(raw: torch.Tensor) -> torch.Tensor:
    """The matrix with orthonormal rows that spans the rows of `raw`: R = L⁻¹A with LLᵀ = AAᵀ (Cholesky).

    The result does not depend on the length of the rows of `raw`, so no optimizer and no weight decay can take R off
    the orthonormal matrices. It equals `raw` where that is orthonormal already. The work is r×r and done in float64
    (float32 on devices that have none), which is exact for a badly conditioned `raw` and makes the rounded result the
    same whether matrices are treated alone or stacked.

    Args:
        raw: (..., r, d) with r ≤ d and linearly independent rows.

    Returns:
        (..., r, d), at least float32, differentiable.

    Raises:
        torch.linalg.LinAlgError: a row is zero or not finite, or rows are dependent and rounding does not hide it.
    """
    rows = raw.float() if raw.device.type == "mps" else raw.double()
    for _ in range(2):  # the second pass takes out what rounding left where rows are all but dependent
        lower = torch.linalg.cholesky(rows @ rows.mT)
        rows = torch.linalg.solve_triangular(lower, rows, upper=False)
    return rows.to(torch.promote_types(raw.dtype, torch.float32))
