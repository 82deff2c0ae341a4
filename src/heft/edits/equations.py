"""The interventions: what each adds to a hidden state, its weights and where they start.

Every ReFT edit adds D·B to a hidden state h: D is the low-rank difference (r numbers), B a basis (r×d).

| name | difference D | basis B | identity at the start |
|---|---|---|---|
| loreft | Wh + b − Rh | R, orthonormal rows | yes: W = R, b = 0 (not with an activation) |
| noreft | W₁h + b − W₂h | W₂ | yes: W₁ = W₂, b = 0 (not with an activation) |
| direft | W₁h + b | W₂ | yes: W₂ = 0 |
| consreft | b − Rh | R, orthonormal rows | no: b is one constant for every h |
| lobireft | b | R, orthonormal rows | yes: b = 0 |

An activation, where given, is applied to Wh + b. Equations: ReFT, arXiv 2404.03592 (LoReFT, DiReFT) and pyreft's
Noreft, Consreft and Lobireft. `direft` here is the paper's DiReFT, two free matrices, which pyreft calls Nodireft;
pyreft's Direft keeps an orthonormal R.

A new intervention is one class here. There is no torch in it, since recipes and reports need its facts:
heft.reft.interventions computes it with torch's `linear`, and the sum h + D·B is in heft.reft.layer.

Shapes: n hidden states, r rank, d hidden size. Weights are named `weight` (W, r×d), `bias` (b, r) and `basis` (r×d);
where B is orthonormal, the parameter is `rotation` (r×d), from whose rows `basis` is made.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

EQUATIONS: "dict[str, Equation]" = {}
"""Every class below by its name."""


class Weights(NamedTuple):
    """The weights of an edit as it is computed: B (r, d), b (r,) and, where there is one, W (r, d)."""

    basis: Any
    bias: Any
    weight: Any = None


class Equation(ABC):
    """One intervention: arithmetic on arrays of any library."""

    text: ClassVar[str]
    """The edited hidden state."""
    has_projection: ClassVar[bool] = True
    """Whether it has Wh + b, to which an activation can be applied."""
    subtracts_basis: ClassVar[bool] = False
    """Whether the difference reads the hidden state by B too: − Rh, − W₂h."""
    linear_norm: ClassVar[str] = ""
    """What the Frobenius norm of the edit's linear part is, in words."""
    constant_norm: ClassVar[str] = "‖b‖"
    """What the norm of its constant part is."""

    def __init_subclass__(cls, name: str):
        EQUATIONS[name] = cls()

    @abstractmethod
    def start(self, new: Any) -> dict[str, Any]:
        """Initial weights by name, at the identity where the equation has one.

        Args:
            new: makes them: `orthonormal()`, random rows (r, d); `rows_of(rotation)`, its R (r, d); `zeros()`, (r,);
                `zero_basis()`, (r, d).
        """

    @abstractmethod
    def difference(self, h: Any, w: Weights, linear: Callable, activation: Callable | None) -> Any:
        """D (n, r), or (r,) where it does not depend on h.

        Args:
            h: (n, d) hidden states.
            w: the weights; `basis` is B, whatever it is made from.
            linear: `linear(h, W, b)` is hWᵀ + b; b may be left out.
            activation: acts on Wh + b; None for nothing.
        """

    def matrix(self, w: Weights) -> Any | None:
        """A (r, d) of D = Ah + b, where there is no activation; None where the edit is a constant."""
        return None


class LoReft(Equation, name="loreft"):
    """R has orthonormal rows."""

    text = "h + (Wh + b − Rh)R"
    subtracts_basis = True
    linear_norm = "‖W − R‖, the Frobenius norm of W − R"

    def start(self, new):
        rotation = new.orthonormal()
        return {"rotation": rotation, "weight": new.rows_of(rotation), "bias": new.zeros()}

    def difference(self, h, w, linear, activation):
        if activation is None:
            return linear(h, w.weight - w.basis, w.bias)
        return activation(linear(h, w.weight, w.bias)) - linear(h, w.basis)

    def matrix(self, w):
        return w.weight - w.basis


class NoReft(Equation, name="noreft"):
    """W₁ and W₂ are free."""

    text = "h + (W₁h + b − W₂h)W₂"
    subtracts_basis = True
    linear_norm = "‖(W₁ − W₂)ᵀW₂‖, a Frobenius norm"
    constant_norm = "‖bW₂‖"

    def start(self, new):
        basis = new.orthonormal()
        return {"basis": basis, "weight": basis.clone(), "bias": new.zeros()}

    difference, matrix = LoReft.difference, LoReft.matrix


class DiReft(Equation, name="direft"):
    """W₁ and W₂ are free."""

    text = "h + (W₁h + b)W₂"
    linear_norm = "‖W₁ᵀW₂‖, a Frobenius norm"
    constant_norm = "‖bW₂‖"

    def start(self, new):
        return {"weight": new.orthonormal(), "bias": new.zeros(), "basis": new.zero_basis()}

    def difference(self, h, w, linear, activation):
        projected = linear(h, w.weight, w.bias)
        return projected if activation is None else activation(projected)

    def matrix(self, w):
        return w.weight


class ConsReft(Equation, name="consreft"):
    """The subspace is set to a constant, which no start can make the identity."""

    text = "h + (b − Rh)R"
    subtracts_basis = True
    has_projection = False
    linear_norm = "‖RᵀR‖, which is the root of the rank in every layer"

    def start(self, new):
        return {"rotation": new.orthonormal(), "bias": new.zeros()}

    def difference(self, h, w, linear, activation):
        return w.bias - linear(h, w.basis)

    def matrix(self, w):
        return -w.basis


class LobiReft(Equation, name="lobireft"):
    """A constant is added in the subspace."""

    text = "h + bR"
    has_projection = False

    start = ConsReft.start

    def difference(self, h, w, linear, activation):
        return w.bias
