"""What each intervention computes, as facts: for settings, reports and documents. No torch.

Every ReFT edit adds D·B to a hidden state h. D is Wh + b (perhaps with an activation) or b alone, less Bh or less
nothing; B has r rows, orthonormal ones (R) or free ones. Without an activation D = Ah + c, so an edit is a linear map
of h (AᵀB, d×d) and a constant (cB). A new intervention is a line here and a class in heft.reft.interventions.

Shapes: r rank, d hidden size. Weights are numpy arrays, named as the parameters of the intervention's class.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Equation:
    """One intervention.

    Attributes:
        text: the edited state.
        has_projection: whether it has Wh + b, to which an activation can be applied.
        linear: A (r, d) from the weights and B; None where the edit is a constant.
        linear_norm: what ‖AᵀB‖ is, in words.
        constant_norm: what ‖cB‖ is; c is the bias.
    """

    text: str
    has_projection: bool
    linear: "Callable[[Mapping[str, np.ndarray], np.ndarray], np.ndarray] | None"
    linear_norm: str
    constant_norm: str


EQUATIONS: dict[str, Equation] = {
    "loreft": Equation(
        "h + (Wh + b − Rh)R",
        True,
        lambda weights, basis: weights["weight"] - basis,
        "‖W − R‖, the Frobenius norm of W − R",
        "‖b‖",
    ),
    "noreft": Equation(
        "h + (W₁h + b − W₂h)W₂",
        True,
        lambda weights, basis: weights["weight"] - basis,
        "‖(W₁ − W₂)ᵀW₂‖, a Frobenius norm",
        "‖bW₂‖",
    ),
    "direft": Equation(
        "h + (W₁h + b)W₂", True, lambda weights, basis: weights["weight"], "‖W₁ᵀW₂‖, a Frobenius norm", "‖bW₂‖"
    ),
    "consreft": Equation(
        "h + (b − Rh)R",
        False,
        lambda weights, basis: -basis,
        "‖RᵀR‖, which is the root of the rank in every layer",
        "‖b‖",
    ),
    "lobireft": Equation("h + bR", False, None, "", "‖b‖"),
}


def linear_and_constant(
    name: str, weights: "Mapping[str, np.ndarray]"
) -> "tuple[np.ndarray | None, np.ndarray, np.ndarray]":
    """A (r, d) or None, c (r,) and B (r, d) of an intervention without an activation.

    Args:
        name: a key of `EQUATIONS`.
        weights: `bias` (r,) and, of `rotation`, `weight` and `basis` (r, d), those that the intervention has.

    Raises:
        numpy.linalg.LinAlgError: the rotation has less than full rank.
    """
    basis = orthonormal_rows(weights["rotation"]) if "rotation" in weights else weights["basis"]
    linear = EQUATIONS[name].linear
    return None if linear is None else linear(weights, basis), weights["bias"], basis


def orthonormal_rows(raw: "np.ndarray") -> "np.ndarray":
    """R = L⁻¹A with LLᵀ = AAᵀ (r, d), as heft.reft.interventions computes it with torch."""
    import numpy as np

    return np.linalg.solve(np.linalg.cholesky(raw @ raw.T), raw)
