"""pyreft's directory: `config.json` (pyvene's) and one pickled state of torch for each intervention.

Of pyreft 0.1.0 and pyvene 0.1.8. A file is named by its intervention's key, such as
`intkey_layer_3_comp_block_output_unit_pos_nunit_1#0.bin`; two interventions of one layer end in #0 and #1. pyreft makes
a new intervention by its class and its rank before it fills it, so nothing else of its settings is kept.

Positions are arguments of pyreft's data module and not in its files. heft writes them to config.json under keys that
pyreft passes over (`POSITION`, `SHARE_WEIGHTS`), and reads them from there.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

COMPONENTS = {"block": "block_output", "attention": "attention_output", "mlp": "mlp_output"}
"""pyvene's names of heft's sites."""
MODEL_TYPES = ("llama", "mistral", "gemma", "gemma2", "qwen2", "olmo", "gpt2", "gpt_neo", "gpt_neox")
"""Causal language models for which pyvene 0.1.8 knows where these are."""
POSITION, SHARE_WEIGHTS = "position", "share_weights"
"""heft's keys, in the words of pyreft's data module."""
CLASS = "<class 'pyreft.interventions.{}'>"
_KEY = "layer_{layer}_comp_{component}_unit_pos_nunit_1#{number}"
_MOST_LAYERS = 10_000
_FIELDS = (
    *("layer", "component", "unit", "max_number_of_units", "low_rank_dimension", "intervention_type", "intervention"),
    *("subspace_partition", "group_key", "intervention_link_key", "moe_key", "source_representation"),
    *("hidden_source_representation", "latent_dim"),
)
"""Of a representation, in pyvene's order."""


class _Rotation(nn.Module):
    """pyreft's LowRankRotateLayer: its `weight` (d, r) has orthonormal columns, Rᵀ."""

    def __init__(self, size: int, rank: int):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(size, rank))


def rotation_state(rows_RD: torch.Tensor) -> dict[str, torch.Tensor]:
    """The state of pyreft's parametrised rotation that computes just these orthonormal rows R (r, d)."""
    rank, size = rows_RD.shape
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        layer = orthogonal(_Rotation(size, rank))
        layer.weight = rows_RD.T.contiguous()
    return {f"rotate_layer.{key}": value.detach().clone() for key, value in layer.state_dict().items()}


def rotation_of(state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """R (r, d) of the state of an intervention with a parametrised rotation; a KeyError or RuntimeError where it has
    none."""
    size, rank = state["rotate_layer.parametrizations.weight.original"].shape
    layer = orthogonal(_Rotation(size, rank))
    own = {key.removeprefix("rotate_layer."): v for key, v in state.items() if key.startswith("rotate_layer.")}
    layer.load_state_dict(own)
    with torch.no_grad():
        return layer.weight.T.contiguous()


def kept_as_it_is(state: Mapping[str, torch.Tensor], *prefixes: str) -> "OrderedDict[str, torch.Tensor]":
    """A state that torch takes over with its own number format, in the modules of these prefixes.

    pyreft makes `learned_source` in bfloat16, whatever was trained, and would round what it loads. torch reads from a
    state's metadata whether parameters are replaced or copied (`assign` of `load_state_dict`).
    """
    kept = OrderedDict(state)
    kept._metadata = {prefix: {"version": 1, "assign_to_params_buffers": True} for prefix in prefixes}
    return kept


def write_directory(
    folder: Path,
    model_type: str,
    interventions: Sequence[tuple[int, str, str, Mapping[str, torch.Tensor]]],
    hidden_size: int,
    rank: int,
    position: str,
    share_weights: bool,
) -> None:
    """Write what `pyreft.ReftModel.load(folder, model)` reads.

    Args:
        folder: exists.
        model_type: name of the model's class, for the record.
        interventions: layer, component, name of pyreft's class and state, in pyreft's order: all of first tokens before
            all of last ones where they have weights of their own.
        hidden_size, rank: d and r.
        position, share_weights: as pyreft's data module takes them.
    """
    keys, seen = [], {}
    for layer, component, *_ in interventions:
        number = seen[layer, component] = seen.get((layer, component), -1) + 1
        keys.append(_KEY.format(layer=layer, component=component, number=number))
    rest = [None] * (len(_FIELDS) - 5)
    config = {
        "intervention_constant_sources": [True] * len(keys),
        "intervention_dimensions": [hidden_size] * len(keys),
        "intervention_types": [CLASS.format(name) for *_, name, _ in interventions],
        "mode": "parallel",
        "model_type": model_type,
        "representations": [[layer, component, "pos", 1, rank, *rest] for layer, component, *_ in interventions],
        "sorted_keys": keys,
        POSITION: position,
        SHARE_WEIGHTS: share_weights,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for key, (*_, state) in zip(keys, interventions, strict=True):
        torch.save(state, folder / f"intkey_{key}.bin")


def representation(entry: Any) -> dict[str, Any]:
    """The fields of a representation of config.json, which is a list or an object.

    Raises:
        ValueError: it is neither, or has fields that pyvene does not know.
    """
    if isinstance(entry, list) and len(entry) <= len(_FIELDS):
        return dict(zip(_FIELDS, entry, strict=False))
    if isinstance(entry, dict) and entry.keys() <= set(_FIELDS):
        return entry
    raise ValueError("an entry of representations is no representation of pyvene")


def place_of(component: str, layer: Any) -> tuple[str, int] | None:
    """heft's site and the layer of a component of pyvene, also as a path such as `model.layers[3].mlp.output`; None
    where heft has no such site."""
    by_name = {name: site for site, name in COMPONENTS.items()}
    if component in by_name and type(layer) is int and 0 <= layer < _MOST_LAYERS:
        return by_name[component], layer
    path = re.fullmatch(r"[A-Za-z_.]+\[(\d{1,4})\](?:\.(self_attn|attn|mlp))?\.output", component)
    if path is None:
        return None
    site = {None: "block", "mlp": "mlp"}.get(path[2], "attention")
    return site, int(path[1])


def class_name(text: str) -> str:
    """`LoreftIntervention` of `<class 'pyreft.interventions.LoreftIntervention'>`."""
    return re.sub(r"^<class '|'>$", "", text).rpartition(".")[2]
