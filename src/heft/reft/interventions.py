"""The interventions of heft.edits.equations as modules of torch: arithmetic only, no attachment.

Shapes: n hidden states, r rank, d hidden size.
"""

import torch
from torch import nn
from torch.nn import functional as F

from heft.edits.arithmetic import ACTIVATIONS, orthonormal_rows
from heft.edits.equations import EQUATIONS, Weights
from heft.reft.outside import Outside


class Intervention(nn.Module):
    """One set of edit weights; called with hidden states, it returns what is added to them.

    Args:
        name: of its equation, a key of heft.edits.equations.EQUATIONS.
        hidden_size: d, the length of a hidden state.
        rank: r, at most d.
        activation: a key of heft.edits.arithmetic.ACTIVATIONS, or None.
        dropout: probability with which an element of the low-rank difference is dropped in training.
    """

    rotation: nn.Parameter | None
    """Raw r×d matrix whose orthonormalised rows are R; None where the equation has no R."""
    outside: Outside | None
    """What the edit keeps out of while it trains; None for nothing."""

    def __init__(self, name: str, hidden_size: int, rank: int, activation: str | None = None, dropout: float = 0.0):
        super().__init__()
        self.equation = EQUATIONS[name]
        self.activation = ACTIVATIONS[activation] if activation else None
        self.dropout = nn.Dropout(dropout)
        self.outside = None
        weights = self.equation.start(_Start(hidden_size, rank))
        for key, value in weights.items():
            self.register_parameter(key, nn.Parameter(value))
        for key in {"rotation", "weight", "basis"} - weights.keys():
            self.register_parameter(key, None)

    def forward(self, hidden_ND: torch.Tensor, rows_RD: torch.Tensor | None = None) -> torch.Tensor:
        """What is added to the hidden states.

        Args:
            hidden_ND: (n, d) hidden states, any floating type; the sum is done in at least float32.
            rows_RD: (r, d) R, if the caller has it already; computed from `rotation` otherwise.

        Returns:
            (n, d), of the type of `hidden_ND`.
        """
        with torch.autocast(hidden_ND.device.type, enabled=False):
            basis, read = self._weights(rows_RD)
            difference = self.equation.difference(hidden_ND.float(), read, F.linear, self.activation)
            difference = self.dropout(difference.expand(len(hidden_ND), -1))  # (r,) where it does not depend on h
            return (difference @ basis).to(hidden_ND.dtype)

    def raw_rows(self) -> torch.Tensor | None:
        """(r, d) whose orthonormalised rows are R; None where the equation has no R."""
        if self.rotation is None or self.outside is None or not self.outside.writes:
            return self.rotation
        return self.outside(self.rotation)

    def keep_out(self, directions_DK: torch.Tensor, side: str) -> None:
        """Let a new edit neither read nor write these directions; until `fold`, whatever its weights become.

        The edit starts anew where its start may write them, at the identity as before where its equation has one.

        Args:
            directions_DK: orthonormal columns.
            side: see `Outside`.
        """
        self.outside = Outside(directions_DK.to(self.bias.device), side)
        if not self.outside.writes:
            return
        rank, size = next(p for p in (self.rotation, self.basis) if p is not None).shape
        with torch.no_grad():
            for key, value in self.equation.start(_Start(size, rank, self.outside)).items():
                getattr(self, key).copy_(value)

    @torch.no_grad()
    def fold(self) -> None:
        """Make the edit's weights those that it is computed with, so that it is the same without `outside`."""
        if self.outside is None:
            return
        basis, read = self._weights(None)
        if self.weight is not None:
            # D reads h by W and, in some equations, by B too, whose part within the directions W then takes back
            within = basis - self.outside(basis).to(basis) if self.equation.subtracts_basis else 0.0
            self.weight.copy_(read.weight + within if self.outside.reads else read.weight)
        (self.rotation if self.basis is None else self.basis).copy_(basis)
        self.outside = None

    @torch.no_grad()
    def affine(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A (r, d), b (r,) and B (r, d), in float64, of the edit h + (Ah + b)B; A is zero where the edit is a constant.

        Raises:
            ValueError: it has an activation, so it is not affine.
        """
        if self.activation is not None:
            raise ValueError("an edit with an activation is not affine")
        basis, read = self._weights(None)
        matrix = self.equation.matrix(read)
        matrix = torch.zeros_like(basis) if matrix is None else matrix
        return matrix.double(), read.bias.double(), basis.double()

    def _weights(self, rows_RD: torch.Tensor | None) -> tuple[torch.Tensor, Weights]:
        """B (r, d), and the weights by which D reads hidden states, in at least float32; `rows_RD` as for `forward`."""
        if self.basis is None:
            basis = orthonormal_rows(self.raw_rows()) if rows_RD is None else rows_RD
        else:
            basis = self.basis.float()
        weight, bias = None if self.weight is None else self.weight.float(), self.bias.float()
        if self.outside is None:
            return basis, Weights(basis, bias, weight)
        if self.outside.writes and self.basis is not None:
            basis = self.outside(basis)
        if not self.outside.reads:
            return basis, Weights(basis, bias, weight)
        read = basis if self.outside.writes else self.outside(basis)
        return basis, Weights(read, bias, None if weight is None else self.outside(weight))


class _Start:
    """What `start` of heft.edits.equations takes."""

    def __init__(self, hidden_size: int, rank: int, outside: Outside | None = None):
        self._shape, self._outside = (rank, hidden_size), outside

    def orthonormal(self) -> torch.Tensor:
        drawn = nn.init.orthogonal_(torch.empty(*self._shape))
        return drawn if self._outside is None else orthonormal_rows(self._outside(drawn.to(self._outside.device)))

    def rows_of(self, rotation: torch.Tensor) -> torch.Tensor:
        return orthonormal_rows(rotation).contiguous()  # fused optimizers expect plain strides

    def zeros(self) -> torch.Tensor:
        return torch.zeros(self._shape[0])

    def zero_basis(self) -> torch.Tensor:
        return torch.zeros(*self._shape)
