"""Directions of the hidden state that an edit keeps out of: P = I − UUᵀ, applied to the rows of its weights.

With rows made P-rows before each use, an edit is orthogonal to U at every step, by construction and whatever the
optimizer does. Shapes: r rank, d hidden size, k directions.
"""

import torch
from torch import nn

SIDES = ("read", "write", "both")
"""What is kept out: what D reads of a hidden state, what D·B adds to it, or both."""


class Outside(nn.Module):
    """The projector onto the complement of some directions.

    Args:
        directions_DK: U (d, k), orthonormal columns. It is a constant, and no part of what is saved.
        side: of `SIDES`.
    """

    def __init__(self, directions_DK: torch.Tensor, side: str):
        super().__init__()
        self.reads, self.writes = side in ("read", "both"), side in ("write", "both")
        self.register_buffer("directions", directions_DK.detach().float(), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the directions are."""
        return self.directions.device

    def forward(self, rows_RD: torch.Tensor) -> torch.Tensor:
        """Rows without their part within the directions, in at least float32.

        It is done in float64 (float32 on devices that have none), and twice, since directions are orthonormal only
        within the rounding of float32, so that rows whose larger part is taken away keep nothing of it.
        """
        exact = torch.float32 if rows_RD.device.type == "mps" else torch.float64
        rows, directions = rows_RD.to(exact), self.directions.to(exact)
        for _ in range(2):
            rows = rows - (rows @ directions) @ directions.T
        return rows.to(torch.promote_types(rows_RD.dtype, torch.float32))


def span_of(columns: list[torch.Tensor], size: int) -> torch.Tensor:
    """Orthonormal columns (d, k) that span those of all matrices (d, ·) of the list, k their rank together.

    Each matrix counts by its own largest singular value, so that a small one is not lost beside a large one; directions
    below d · 1.2e-7 of it are rounding. `size` is d, for an empty list.
    """
    scaled = []
    for matrix in columns:
        matrix = matrix.detach().cpu().double()
        top = torch.linalg.matrix_norm(matrix, 2)
        if top > 0:
            scaled.append(matrix / top)
    if not scaled:
        return torch.zeros(size, 0)
    left, values, _ = torch.linalg.svd(torch.cat(scaled, dim=1), full_matrices=False)
    tolerance = size * torch.finfo(torch.float32).eps
    return left[:, values > tolerance * values[0]].float()
