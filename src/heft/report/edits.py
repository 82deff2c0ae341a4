"""How large the trained edits are, layer by layer, from the saved weights.

Every ReFT edit adds D·B to a hidden state h, with D = Ah + b (heft.edits.equations). As a map of h it has the linear
part AᵀB (d×d) and the constant part bB. Their sizes, in the Frobenius and the Euclidean norm, do not depend on the
basis in which the weights were stored; for LoReFT, whose B = R has orthonormal rows, they are those of W − R and of b.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from heft.adapters.safety import adapter_folder, adapter_paths
from heft.adapters.weights import read_shapes
from heft.compare.runs import RunFiles
from heft.edits.equations import EQUATIONS, Weights
from heft.edits.positions import GROUPS
from heft.errors import HeftError
from heft.storage.reading import read_json

_MOST_NUMBERS = 2**30
_KEY = re.compile(rf"\.(\d+)\.(?:.*\.)?reft\.reft_({'|'.join(GROUPS)})\.(\w+)$")


@dataclass(frozen=True)
class Edit:
    """One adapter's edit, by layer.

    Attributes:
        adapter: its name.
        intervention: such as "loreft".
        activation: what acts on Wh + b, or None.
        group: "shared", or "first" and "last" where these positions have weights of their own.
        layers: numbers of the edited layers.
        linear: Frobenius norm of the linear part in each; empty where there is none.
        constant: Euclidean norm of the constant part in each.
    """

    adapter: str
    intervention: str
    activation: str | None
    group: str
    layers: list[int]
    linear: list[float]
    constant: list[float]


def read_edits(run: RunFiles) -> list[Edit]:
    """The edits of a run's ReFT adapters, of the stages that it is looked at after; none where it has no such adapter.

    Raises:
        HeftError: the adapter directory is missing or cannot be read.
    """
    folder = run.path / "adapter"
    if not (folder / "heft.json").is_file():
        raise HeftError(f"{folder} has no heft.json: the run has not saved its adapters")
    try:
        entries = read_json(folder / "heft.json")["adapters"]
        stages = {evaluation.stage for evaluation in run.evaluations}
        names = [entry["name"] for entry in entries if entry["method"] == "reft" and entry["stage"] in stages]
        return [edit for name in names for edit in _adapter_edits(adapter_folder(folder, name), name)]
    except (OSError, LookupError, TypeError, ValueError, SafetensorError, np.linalg.LinAlgError) as error:
        raise HeftError(f"the adapters in {folder} cannot be read: {error}") from None


def _adapter_edits(folder: Path, name: str) -> list[Edit]:
    config_path, path = adapter_paths(folder)
    config = read_json(config_path)
    if sum(math.prod(shape) for shape in read_shapes(path).values()) > _MOST_NUMBERS:
        raise HeftError(f"{path} is larger than any adapter of edits")
    units: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    for key, tensor in load_file(path).items():
        if found := _KEY.search(key):
            layer, group, kind = int(found[1]), found[2], found[3]
            units.setdefault(group, {}).setdefault(layer, {})[kind] = tensor.astype(np.float64)
    edits = []
    for group, layers in sorted(units.items()):
        sizes = [edit_size(config["intervention"], layers[layer]) for layer in sorted(layers)]
        linear = [size for size, _ in sizes if size is not None]
        about = (name, config["intervention"], config.get("activation"), group, sorted(layers))
        edits.append(Edit(*about, linear, [constant for _, constant in sizes]))
    return edits


def edit_size(intervention: str, weights: dict[str, np.ndarray]) -> tuple[float | None, float]:
    """Norms of an edit's linear part (None where it has none) and of its constant part.

    Args:
        intervention: a key of heft.edits.equations.EQUATIONS.
        weights: `bias` (r,) and, of `rotation`, `weight` and `basis` (r, d), those that the intervention has.

    Raises:
        numpy.linalg.LinAlgError: the rotation has less than full rank.
    """
    basis = weights["basis"] if "basis" in weights else _orthonormal_rows(weights["rotation"])
    inner = EQUATIONS[intervention].matrix(Weights(basis, weights["bias"], weights.get("weight")))
    constant = float(np.linalg.norm(weights["bias"] @ basis))
    if inner is None:
        return None, constant
    # ‖AᵀB‖² = tr(AAᵀ·BBᵀ), which needs no d×d matrix
    return float(np.sqrt(max(0.0, np.sum((inner @ inner.T) * (basis @ basis.T))))), constant


def _orthonormal_rows(rotation: np.ndarray) -> np.ndarray:
    """R = L⁻¹A with LLᵀ = AAᵀ (r, d), as heft.reft.interventions computes it with torch."""
    return np.linalg.solve(np.linalg.cholesky(rotation @ rotation.T), rotation)
