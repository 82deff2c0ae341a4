"""A HEFT adapter directory as vLLM is to serve it: its LoRA folders, and its edits with the weights they compute with.

No vLLM and no PEFT. Shapes: r rank, d hidden size.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import isclose
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from heft.adapters.manifest import AdapterEntry, AdapterManifest, read_manifest
from heft.adapters.safety import adapter_folder, adapter_paths, read_reft
from heft.adapters.weights import read_shapes
from heft.edits.arithmetic import ACTIVATIONS, orthonormal_rows
from heft.edits.equations import EQUATIONS, Weights
from heft.edits.positions import parse_positions
from heft.edits.settings import ReftSettings, Site
from heft.errors import HeftError
from heft.settings.words import show
from heft.storage.atomic import sha256_of
from heft.storage.reading import is_file, read_json
from heft.vllm_plugin.tokens import Kind

_KEY = re.compile(
    r"base_model\.model\.(?:.*\.)?layers\.(\d+)\.(?:[a-z_]+\.)?reft\.reft_(shared|first|last)"
    r"\.(rotation|weight|bias|basis)"
)


@dataclass(frozen=True)
class Place:
    """Where edits are made: an output of one layer."""

    layer: int
    site: Site


@dataclass(frozen=True)
class Edit:
    """One set of weights at one place: h + D·B on the tokens of its kind.

    Attributes:
        name: of the ReFT adapter.
        kind: number of its tokens in `Adapter.kinds`.
        matrix, bias: A (r, d) and b (r,) of D = Ah + b, where there is no activation; A is zero for a constant.
        basis: B (r, d).
    """

    name: str
    settings: ReftSettings
    kind: int
    weights: Weights
    matrix: torch.Tensor
    bias: torch.Tensor
    basis: torch.Tensor

    def delta(self, hidden: torch.Tensor) -> torch.Tensor:
        """What is added to hidden states (n, d), as heft.reft.interventions computes it; (n, d) in their own type."""
        activation = ACTIVATIONS[self.settings.activation] if self.settings.activation else None
        equation = EQUATIONS[self.settings.intervention]
        difference = equation.difference(hidden.float(), self.weights, F.linear, activation)
        return (difference.expand(len(hidden), -1) @ self.basis).to(hidden.dtype)

    def to(self, device: torch.device) -> "Edit":
        """The same on a device."""
        weights = Weights(*(None if each is None else each.to(device) for each in self.weights))
        moved = {key: getattr(self, key).to(device) for key in ("matrix", "bias", "basis")}
        return replace(self, weights=weights, **moved)


@dataclass(frozen=True)
class Layout:
    """What an adapter directory holds, without its weights.

    Attributes:
        directory: of `heft.json`.
        digest: of `heft.json`, which has the hashes of all files.
        loras: folders of its LoRA adapters.
        refts: settings of its ReFT adapters, by name.
        kinds: the edited tokens that it tells apart.
    """

    directory: Path
    manifest: AdapterManifest
    digest: str
    loras: tuple[Path, ...]
    refts: dict[str, ReftSettings]
    kinds: tuple[Kind, ...] = field(default=())


@dataclass(frozen=True)
class Adapter:
    """The fine part of an adapter directory."""

    layout: Layout
    edits: dict[Place, tuple[Edit, ...]]


def find(given: str) -> tuple[Path, str | None] | None:
    """The adapter directory that a path names, and the stage behind a colon; None where it is no such directory.

    A path is an adapter directory, a run's directory, or one of them followed by `:STAGE`: the stages up to that one.
    """
    for path, stage in ((given, None), given.rpartition(":")[::2]):
        for folder in (Path(path), Path(path) / "adapter") if path else ():
            if is_file(folder / "heft.json"):
                return Path(os.path.abspath(folder)), stage
    return None


def read_layout(directory: Path, stage: str | None = None) -> Layout:
    """What an adapter directory holds.

    Raises:
        HeftError: it cannot be read, has no such stage, or has a LoRA that vLLM would serve as another one.
    """
    manifest = read_manifest(directory)
    loras, refts, faults = [], {}, []
    for entry in _up_to(directory, manifest, stage):
        folder = adapter_folder(directory, entry.name)
        config, _ = adapter_paths(folder)
        if entry.method == "reft":
            refts[entry.name] = read_reft(config)
        else:
            loras.append(folder)
            faults += lora_faults(entry.name, read_json(config))
    if faults:
        raise HeftError(f"{directory} cannot be served by vLLM: {'; '.join(faults)}. `heft serve` can")
    kinds = dict.fromkeys(kind for settings in refts.values() for kind in kinds_of(settings))
    return Layout(directory, manifest, sha256_of(directory / "heft.json")[:16], tuple(loras), refts, tuple(kinds))


def read_adapter(layout: Layout, hidden_size: int, layers: int) -> Adapter:
    """The edits of an adapter directory.

    Raises:
        HeftError: their shapes are those of another base model, or its files hold something else than edits.
    """
    edits: dict[Place, tuple[Edit, ...]] = {}
    for name, settings in layout.refts.items():
        _, path = adapter_paths(adapter_folder(layout.directory, name))
        grouped = _grouped(path)
        for (layer, group), tensors in grouped.items():
            if layer >= layers:
                raise HeftError(
                    f"{path} edits layer {layer}, and this base model has {layers} layers, 0 to {layers - 1}"
                )
            place = Place(layer, settings.site)
            kind = layout.kinds.index(Kind(parse_positions(settings.positions), group))
            made = _edit(name, settings, kind, tensors, path, hidden_size)
            edits[place] = (*edits.get(place, ()), made)
        _require_all_there(path, settings, {layer for layer, _ in grouped}, layers)
    return Adapter(layout, edits)


def kinds_of(settings: ReftSettings) -> list[Kind]:
    """The sets of tokens with weights of their own."""
    positions = parse_positions(settings.positions)
    return [Kind(positions, group) for group in positions.groups(settings.tied)]


def lora_faults(name: str, values: dict) -> list[str]:
    """Why vLLM's LoRA would not be this one; what vLLM itself refuses, it refuses."""
    if values.get("peft_type") == "ACTIVATED_LORA" or values.get("alora_invocation_tokens"):
        return [f"{name} is a LoRA of some tokens ({show(values.get('positions'))}), and vLLM's acts on all"]
    found = []
    if values.get("trainable_token_indices"):
        found.append(f"{name} has trained embeddings of tokens, which vLLM does not load")
    if values.get("use_dora"):
        found.append(f"{name} uses DoRA, which vLLM does not load")
    if values.get("target_parameters"):
        found.append(f"{name} adapts experts' parameters, which this plugin has not been tried with")
    other = _scaled_otherwise(values)
    if other:
        found.append(f"{name} scales {other} by another factor than its other modules, and vLLM has one for all")
    return found


def _scaled_otherwise(values: dict) -> str | None:
    """A module of rank_pattern or alpha_pattern whose update has another factor than lora_alpha and r give."""

    def factor(alpha: float, rank: int) -> float:
        return alpha / (rank**0.5 if values.get("use_rslora") else rank)

    ranks, alphas = values.get("rank_pattern") or {}, values.get("alpha_pattern") or {}
    rank, alpha = values.get("r", 8), values.get("lora_alpha", 8)
    of_all = factor(alpha, rank)
    for key in (*ranks, *alphas):
        if not isclose(factor(alphas.get(key, alpha), ranks.get(key, rank)), of_all):
            return key
    return None


def _up_to(directory: Path, manifest: AdapterManifest, stage: str | None) -> Iterable[AdapterEntry]:
    stages = list(dict.fromkeys(entry.stage for entry in manifest.adapters))
    if stage is None:
        return manifest.adapters
    if stage not in stages:
        raise HeftError(f"{directory} has no stage {stage[:80]!r}; it has {', '.join(stages)}")
    wanted = stages[: stages.index(stage) + 1]
    return [entry for entry in manifest.adapters if entry.stage in wanted]


def _grouped(path: Path) -> dict[tuple[int, str], dict[str, torch.Tensor]]:
    """The tensors of a file by layer and group."""
    read_shapes(path)  # a file that is cut off or holds other numbers is refused first
    found: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
    for key, tensor in sorted(load_file(path).items()):
        match = _KEY.fullmatch(key)
        if match is None:
            raise HeftError(f"{path} holds {key[:120]!r}, which is no edit of a layer")
        found.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    return found


def _edit(
    name: str, settings: ReftSettings, kind: int, tensors: dict[str, torch.Tensor], path: Path, hidden_size: int
) -> Edit:
    own = {"rotation"} if "rotation" in tensors else {"basis"}
    needed = own | {"bias"} | ({"weight"} if EQUATIONS[settings.intervention].has_projection else set())
    shapes = {key: (settings.rank,) if key == "bias" else (settings.rank, hidden_size) for key in needed}
    there = {key: tuple(value.shape) for key, value in tensors.items()}
    if there != shapes:
        raise HeftError(
            f"{path} has weights of the shapes {there}, and an edit of rank {settings.rank} of this base model, whose"
            f" hidden size is {hidden_size}, has {shapes}: it was trained on another model"
        )
    bad = [key for key, value in tensors.items() if not value.isfinite().all()]
    if bad:
        raise HeftError(f"{path}: {', '.join(bad)} has values that are no finite numbers")
    basis = orthonormal_rows(tensors["rotation"]) if "rotation" in tensors else tensors["basis"].float()
    weight = tensors["weight"].float() if "weight" in tensors else None
    weights = Weights(basis, tensors["bias"].float(), weight)
    matrix = EQUATIONS[settings.intervention].matrix(weights)
    return Edit(
        name, settings, kind, weights, torch.zeros_like(basis) if matrix is None else matrix, weights.bias, basis
    )


def _require_all_there(path: Path, settings: ReftSettings, found: set[int], layers: int) -> None:
    wanted = set(range(layers)) if settings.layers == "all" else {each % layers for each in settings.layers}
    if not wanted <= found:
        raise HeftError(
            f"{path} has no edits of the layers {sorted(wanted - found)}, which its configuration edits: it was trained"
            f" on another model than this one, of {layers} layers"
        )
