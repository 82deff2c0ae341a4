"""How large the trained edits are, layer by layer, from the saved weights, as panels.

Every ReFT edit adds D·B to a hidden state h, with D = Ah + b (heft.edits.equations). As a map of h it has the linear
part AᵀB (d×d) and the constant part bB. Their sizes, in the Frobenius and the Euclidean norm, do not depend on the
basis in which the weights were stored; for LoReFT, whose B = R has orthonormal rows, they are those of W − R and of b.
"""

import math
import re
from collections.abc import Sequence
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
from heft.report.parts import Cell, Heading, Panel, Section, Table
from heft.report.subject import Subject, trained
from heft.storage.reading import read_json
from heft.text.svg import Drawing, axis
from heft.text.units import count, in_digits, several

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


def section(subject: Subject) -> Section:
    """A panel for each ReFT adapter of each training, its seeds over one another."""
    panels, notes = [], []
    for group in trained(subject.arms):
        found: dict[tuple[str, str], list[tuple[RunFiles, Edit]]] = {}
        for run in group.runs:
            try:
                for edit in read_edits(run):
                    found.setdefault((edit.adapter, edit.group), []).append((run, edit))
            except HeftError as error:
                notes.append(f"{group.title}, seed {run.seed}: not shown, since {error}.")
        panels += [_panel(group.title, edits) for edits in found.values()]
    about = (
        "How strongly each layer’s hidden state is edited. An edit is a linear map of the state and a constant; both"
        " norms are of the saved weights, so a layer with large states may be changed less than its norm suggests."
    )
    title = "The fine edit, layer by layer"
    if not panels:
        return Section("layers", title, ["No ReFT edit is there.", *notes])
    plain = "Where in the network the ReFT stage acts most."
    return Section("layers", title, [plain, about, *notes], panels, folded="Size of the edit in each layer")


def _panel(title: str, edits: Sequence[tuple[RunFiles, Edit]]) -> Panel:
    first = edits[0][1]
    sizes = [size for _, edit in edits for size in (*edit.linear, *edit.constant)]
    last = max(first.layers) + 0.5
    x = axis("layer", [-0.5, last], low=-0.5, high=last, words=count, whole=True)
    drawing = Drawing(x, axis("norm", [0, *sizes], low=0))
    for _, edit in edits:
        for kind, values in (("a", edit.linear), ("b", edit.constant)):
            points = list(zip(edit.layers, values, strict=True)) if values else []
            drawing.line(points, f"line thin {kind}")
            for point in points:
                drawing.dot(point, f"fill {kind}" if kind == "a" else f"hollow {kind}", 2.4)
    which = "" if first.group == "shared" else f", {first.group} positions"
    name = f"{title}: {first.adapter}{which}"
    svg = drawing.svg(f"Size of the edit by layer, {name}")
    return Panel(name, svg, _about(first, len(edits)), _numbers(name, edits))


def _about(edit: Edit, seeds: int) -> str:
    equation = EQUATIONS[edit.intervention]
    sentences = [f"{edit.intervention}, {several(len(edit.layers), 'layer')}."]
    if edit.linear:
        sentences.append(f"Filled: {equation.linear_norm}, {_extremes(edit.layers, edit.linear)}.")
    sentences.append(f"Hollow: {equation.constant_norm}, {_extremes(edit.layers, edit.constant)}.")
    if edit.activation:
        sentences.append(f"An activation ({edit.activation}) stands between, so these are not the whole edit.")
    if seeds > 1:
        sentences.append(f"Figures are of the first of {seeds} seeds.")
    return " ".join(sentences)


def _extremes(layers: Sequence[int], sizes: Sequence[float]) -> str:
    by_size = sorted(zip(sizes, layers, strict=True))
    (least, low), (most, high) = by_size[0], by_size[-1]
    return f"largest in layer {high} ({in_digits(most)}), smallest in layer {low} ({in_digits(least)})"


def _numbers(title: str, edits: Sequence[tuple[RunFiles, Edit]]) -> Table:
    headings = [Heading("layer", is_text=True)]
    for run, edit in edits:
        headings += [Heading(f"linear, seed {run.seed}")] * bool(edit.linear) + [Heading(f"constant, seed {run.seed}")]
    rows = []
    for place, layer in enumerate(edits[0][1].layers):
        cells = [Cell(in_digits(v[place])) for _, edit in edits for v in (edit.linear, edit.constant) if v]
        rows.append([Cell(str(layer)), *cells])
    return Table(f"Norms of the edit’s parts, {title}", headings, rows)


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
