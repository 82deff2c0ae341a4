"""A ReFT adapter as a directory of pyreft's, with the merged model beside it where there is LoRA beneath.

    OUT/
      config.json, intkey_….bin      `pyreft.ReftModel.load(OUT, model)`
      model/                         the base with LoRA merged, which is the `model` then

Every affine edit h + (Ah + b)B is pyreft's DiReFT with rows of B made orthonormal: B = LR, and D = (LᵀA)h + Lᵀb.
"""

import json
from collections import OrderedDict
from pathlib import Path

import torch

from heft.adapters.directory import Loaded
from heft.exchange.pyreft_format import COMPONENTS, kept_as_it_is, rotation_state, write_directory
from heft.exchange.subject import Subject
from heft.reft.interventions import Intervention
from heft.reft.layer import layers_of
from heft.reft.sites import block_names
from heft.storage.atomic import to_json


def write_interventions(folder: Path, subject: Subject, loaded: Loaded) -> None:
    """Write the one ReFT adapter on the model, whose settings pyreft can say (heft.exchange.refusals)."""
    ((name, config),) = subject.refts.items()
    model, positions = loaded.model, config.edited_positions
    groups = positions.groups(config.tied)
    layers = sorted(
        (_number(model, path), layer) for path, layer in layers_of(model).items() if name in layer.positions
    )
    component, whole = COMPONENTS[config.site], model.dtype == torch.float32
    interventions = [
        (number, component, *as_pyreft(config.intervention, getattr(layer, f"reft_{group}")[name], whole))
        for group in groups
        for number, layer in layers
    ]
    size = model.config.get_text_config().hidden_size
    kind = f"<class '{type(model).__module__}.{type(model).__qualname__}'>"
    write_directory(folder, kind, interventions, size, config.rank, str(positions), len(groups) == 1)


@torch.no_grad()
def as_pyreft(name: str, unit: Intervention, whole: bool) -> tuple[str, "OrderedDict[str, torch.Tensor]"]:
    """The name of pyreft's class and its state, in float32, of an edit of an equation of heft's.

    `whole`: the model computes in float32. Elsewhere pyreft's LoReFT multiplies in the model's own format, and its
    DiReFT in that of its weights, so LoReFT is written as the DiReFT that it is.
    """
    matrix, bias, basis = unit.affine()
    size = torch.tensor(basis.shape[1])
    sizes = {"embed_dim": size, "interchange_dim": size.clone()}
    if name == "loreft" and whole:
        weight = (matrix + basis).float()
        state = {"weight": weight, "bias": bias.float(), "rotate_layer": basis.T.float().contiguous()}
        return "LoreftIntervention", kept_as_it_is(state, "")
    if name in ("consreft", "lobireft"):
        kind = f"{name.capitalize()}Intervention"
        return kind, OrderedDict({"learned_source": bias.float(), **sizes, **rotation_state(basis.float())})
    columns, upper = torch.linalg.qr(basis.T)  # basis = upperᵀ columnsᵀ
    learned = {"learned_source.weight": (upper @ matrix).float(), "learned_source.bias": (upper @ bias).float()}
    state = {**sizes, **rotation_state(columns.T.float()), **learned}
    return "DireftIntervention", kept_as_it_is(state, "learned_source")


def let_old_transformers_read(folder: Path) -> None:
    """Add the keys by which transformers 4.45, pyreft's, reads the settings of a saved model that later ones rename."""
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    rope = values.get("rope_parameters") or {}
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        values["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    if "dtype" in values:
        values["torch_dtype"] = values["dtype"]
    path.write_text(to_json(values), encoding="utf-8")


def _number(model, path: str) -> int:
    return next(i for i, block in enumerate(block_names(model)) if f"{path}.".startswith(f"{block}."))
