"""The edits: arithmetic only, no attachment.

An intervention takes hidden states h (rows of an n×d matrix) and returns what is added to them. All have the form
D·B with D the low-rank difference (n×r, dropout applies here) and B a basis (r×d):

| name | difference D | basis B | identity at the start |
|---|---|---|---|
| loreft | Wh + b − Rh | R, orthonormal rows | yes: W = R, b = 0 (not with an activation) |
| noreft | W₁h + b − W₂h | W₂ | yes: W₁ = W₂, b = 0 (not with an activation) |
| direft | W₁h + b | W₂ | yes: W₂ = 0 |
| consreft | b − Rh | R, orthonormal rows | no: b is one constant for every h |
| lobireft | b | R, orthonormal rows | yes: b = 0 |

An activation, where given, is applied to Wh + b. Equations: ReFT, arXiv 2404.03592 (LoReFT, DiReFT) and pyreft's
Noreft, Consreft and Lobireft. `direft` here is the paper's DiReFT, two free matrices, which pyreft calls Nodireft;
pyreft's Direft keeps an orthonormal R. The sum h + D·B is in heft.reft.layer.
"""

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional as F

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


INTERVENTIONS: "dict[str, type[Intervention]]" = {}
"""Every class below by its name; the same names have their facts in heft.edits.equations."""


class Intervention(nn.Module, ABC):
    """One set of edit weights. A subclass is registered under its name in heft.edits.equations.

    Args:
        hidden_size: d, the length of a hidden state.
        rank: r, at most d.
        activation: a key of `ACTIVATIONS`, or None.
        dropout: probability with which an element of the low-rank difference is dropped in training.
    """

    rotation: nn.Parameter | None
    """Raw r×d matrix whose orthonormalised rows are R; None where the equation has no R."""

    def __init_subclass__(cls, name: str, **options):
        super().__init_subclass__(**options)
        INTERVENTIONS[name] = cls

    def __init__(self, hidden_size: int, rank: int, activation: str | None = None, dropout: float = 0.0):
        super().__init__()
        self.activation = ACTIVATIONS[activation] if activation else None
        self.dropout = nn.Dropout(dropout)
        self.register_parameter("rotation", None)
        self._build(hidden_size, rank)

    @abstractmethod
    def _build(self, hidden_size: int, rank: int) -> None:
        """Create the parameters, at the identity where the equation has one."""

    @abstractmethod
    def factors(self, hidden_ND: torch.Tensor, rows_RD: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The low-rank difference (n×r, or r for one that does not depend on h) and the basis (r×d)."""

    def forward(self, hidden_ND: torch.Tensor, rows_RD: torch.Tensor | None = None) -> torch.Tensor:
        """What is added to the hidden states.

        Args:
            hidden_ND: (n, d) hidden states, any floating type; the sum is done in at least float32.
            rows_RD: (r, d) R, if the caller has it already; computed from `rotation` otherwise.

        Returns:
            (n, d), of the type of `hidden_ND`.
        """
        with torch.autocast(hidden_ND.device.type, enabled=False):
            if rows_RD is None and self.rotation is not None:
                rows_RD = orthonormal_rows(self.rotation)
            difference, basis = self.factors(hidden_ND.float(), rows_RD)
            difference = self.dropout(difference.expand(len(hidden_ND), -1))
            return (difference @ basis).to(hidden_ND.dtype)

    def _activate(self, projected: torch.Tensor) -> torch.Tensor:
        return self.activation(projected) if self.activation else projected

    def _add_rotation(self, hidden_size: int, rank: int) -> torch.Tensor:
        self.rotation = nn.Parameter(random_orthonormal_(torch.empty(rank, hidden_size)))
        return orthonormal_rows(self.rotation.detach()).contiguous()  # fused optimisers expect plain strides


class LoReft(Intervention, name="loreft"):
    """h + (Wh + b − Rh)R, R with orthonormal rows."""

    def _build(self, hidden_size: int, rank: int) -> None:
        self.weight = nn.Parameter(self._add_rotation(hidden_size, rank))
        self.bias = nn.Parameter(torch.zeros(rank))

    def factors(self, hidden_ND, rows_RD):
        weight, bias = self.weight.float(), self.bias.float()
        if self.activation is None:
            return F.linear(hidden_ND, weight - rows_RD, bias), rows_RD
        return self._activate(F.linear(hidden_ND, weight, bias)) - F.linear(hidden_ND, rows_RD), rows_RD


class NoReft(Intervention, name="noreft"):
    """h + (W₁h + b − W₂h)W₂, both free."""

    def _build(self, hidden_size: int, rank: int) -> None:
        self.basis = nn.Parameter(random_orthonormal_(torch.empty(rank, hidden_size)))
        self.weight = nn.Parameter(self.basis.detach().clone())
        self.bias = nn.Parameter(torch.zeros(rank))

    def factors(self, hidden_ND, rows_RD):
        weight, bias, basis = self.weight.float(), self.bias.float(), self.basis.float()
        if self.activation is None:
            return F.linear(hidden_ND, weight - basis, bias), basis
        return self._activate(F.linear(hidden_ND, weight, bias)) - F.linear(hidden_ND, basis), basis


class DiReft(Intervention, name="direft"):
    """h + (W₁h + b)W₂, both free."""

    def _build(self, hidden_size: int, rank: int) -> None:
        self.weight = nn.Parameter(random_orthonormal_(torch.empty(rank, hidden_size)))
        self.bias = nn.Parameter(torch.zeros(rank))
        self.basis = nn.Parameter(torch.zeros(rank, hidden_size))

    def factors(self, hidden_ND, rows_RD):
        projected = F.linear(hidden_ND, self.weight.float(), self.bias.float())
        return self._activate(projected), self.basis.float()


class ConsReft(Intervention, name="consreft"):
    """h + (b − Rh)R: the subspace is set to a constant, which no start can make the identity."""

    def _build(self, hidden_size: int, rank: int) -> None:
        self._add_rotation(hidden_size, rank)
        self.bias = nn.Parameter(torch.zeros(rank))

    def factors(self, hidden_ND, rows_RD):
        return self.bias.float() - F.linear(hidden_ND, rows_RD), rows_RD


class LobiReft(Intervention, name="lobireft"):
    """h + bR: a constant is added in the subspace."""

    def _build(self, hidden_size: int, rank: int) -> None:
        self._add_rotation(hidden_size, rank)
        self.bias = nn.Parameter(torch.zeros(rank))

    def factors(self, hidden_ND, rows_RD):
        return self.bias.float(), rows_RD


def orthonormal_rows(raw: torch.Tensor) -> torch.Tensor:
    """The matrix with orthonormal rows that spans the rows of `raw`: R = L⁻¹A with LLᵀ = AAᵀ (Cholesky).

    The result does not depend on the length of the rows of `raw`, so no optimiser and no weight decay can take R off
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


def random_orthonormal_(raw: torch.Tensor) -> torch.Tensor:
    """Fill `raw` (r, d) with random orthonormal rows, in place."""
    return torch.nn.init.orthogonal_(raw)
