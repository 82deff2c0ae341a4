"""A directory that pyreft saved, read: its settings as a ReFT stage's, its weights as heft's units.

Its files are pickles of torch. heft opens no others, and these only with torch's reader of plain tensors, after a look
at what the pickle names: a tensor's makers, or it is refused.
"""

import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from heft.errors import HeftError
from heft.exchange.pyreft_format import (
    COMPONENTS,
    POSITION,
    SHARE_WEIGHTS,
    class_name,
    place_of,
    representation,
    rotation_of,
)
from heft.settings.words import show
from heft.storage.reading import FileFault, is_file, open_file, read_json

CLASSES = {
    "LoreftIntervention": "loreft",
    "NoreftIntervention": "noreft",
    "DireftIntervention": "direft",
    "NodireftIntervention": "direft",
    "ConsreftIntervention": "consreft",
    "LobireftIntervention": "lobireft",
}
"""heft's intervention for each of pyreft's; pyreft's DiReFT is heft's with an orthonormal basis."""
_PLAIN = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int")),
}
"""All that the pickle of a state of tensors names."""
_NAMING = ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4")
"""Codes of a pickle that name something."""
_MOST = 2**20
_SLACK = 1e-5
"""How far RRᵀ may be from the identity, an element, where R is orthonormal but for rounding in float32."""

Unit = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PyreftAdapter:
    """What a directory of pyreft's holds.

    Attributes:
        settings: of a ReFT stage: intervention, rank, layers, site, positions, tied, activation.
        units: weights by layer and group ("shared", "first", "last"), by heft's names of parameters.
        hidden_size: d.
        notes: what was not as expected.
    """

    settings: dict[str, Any]
    units: dict[tuple[int, str], Unit]
    hidden_size: int
    notes: list[str]


def is_pyreft(folder: Path) -> bool:
    """Whether a folder looks like one that pyreft saved."""
    return is_file(folder / "config.json") and any(folder.glob("intkey_*.bin"))


def read_pyreft(folder: Path, positions: str | None = None, activation: str | None = None) -> PyreftAdapter:
    """Read a directory of pyreft's.

    Args:
        folder: the directory.
        positions: as heft writes them; None takes what heft wrote into its config.json, if it did.
        activation: that its interventions were made with (`act_fn`), which no file has.

    Raises:
        HeftError: it cannot be read, or has something that heft cannot say exactly; all of that is named.
    """
    values = read_json(folder / "config.json")
    faults: list[str] = []
    entries = _entries(values, faults)
    own = values.get(POSITION)
    if positions is None and not isinstance(own, str):
        faults.append(
            "it does not say which tokens are edited, since pyreft has positions as an argument of its data module:"
            " give them with --positions, such as f7+l7 (pyreft's position)"
        )
    if positions is not None and isinstance(own, str) and own != positions:
        faults.append(f"--positions is {positions}, and its config.json says {own}")
    if positions is None:
        positions = own if isinstance(own, str) else "l1"
    if faults:
        raise _unreadable(folder, faults)
    site, groups = _groups(entries, positions, values.get(SHARE_WEIGHTS), faults)
    if faults:
        raise _unreadable(folder, faults)
    units, names = {}, set()
    for entry, group in zip(entries, groups, strict=True):
        path = folder / f"intkey_{entry['key']}.bin"
        try:
            name, unit = as_heft(entry["class"], read_state(path), activation)
        except (KeyError, RuntimeError, ValueError) as error:
            faults.append(f"{path.name} cannot be read as {entry['class']}: {str(error).splitlines()[0][:200]}")
            continue
        names.add(name)
        units[entry["number"], group] = unit
    if faults:
        raise _unreadable(folder, faults)
    notes = []
    if len(names) > 1:  # of LoReFT some R is not orthonormal, so all are said with a free matrix
        units = {key: _free(unit) for key, unit in units.items()}
    name = "noreft" if len(names) > 1 else names.pop()
    if name == "noreft" and entries[0]["class"] == "LoreftIntervention":
        notes.append("the rows of R are not orthonormal to float32's rounding, so it is noreft, which is the same edit")
    sizes = {tuple(_basis(unit).shape) for unit in units.values()}
    if len(sizes) > 1:
        raise _unreadable(folder, [f"its interventions have several shapes (rank, hidden size): {sorted(sizes)}"])
    ((rank, size),) = sizes
    settings = {
        "intervention": name,
        "rank": rank,
        "layers": sorted({number for number, _ in units}),
        "site": site,
        "positions": positions,
        "tied": "shared" in {group for _, group in units} or len({group for _, group in units}) == 1,
        "activation": activation,
    }
    return PyreftAdapter(settings, units, size, notes)


def as_heft(kind: str, state: Mapping[str, torch.Tensor], activation: str | None = None) -> tuple[str, Unit]:
    """The intervention and the parameters of one of pyreft's, in float32.

    Raises:
        KeyError, RuntimeError, ValueError: the state is of another class, or has what heft's has not.
    """
    name = CLASSES[kind]
    if kind == "LoreftIntervention":
        rows, weight, bias = state["rotate_layer"].T, state["weight"], state["bias"]
        gram = rows.float() @ rows.float().T
        if (gram - torch.eye(len(gram))).abs().max() > _SLACK:
            name = "noreft"
    elif name in ("consreft", "lobireft"):
        rows, weight, bias = rotation_of(state), None, state["learned_source"]
    else:
        orthonormal = kind == "DireftIntervention"
        rows = rotation_of(state) if orthonormal else state["proj_layer.weight"]
        weight, bias = state["learned_source.weight"], state["learned_source.bias"]
        if "proj_layer.bias" in state and name == "noreft":
            outer = state["proj_layer.bias"]
            if activation is not None and outer.any():
                raise ValueError(f"proj_layer.bias is added outside of {activation}, for which heft has no weight")
            bias = bias - outer
    if weight is not None and weight.shape != rows.shape or bias.shape != rows.shape[:1]:
        raise ValueError("its matrices do not fit together")
    unit = {"rotation" if name in ("loreft", "consreft", "lobireft") else "basis": rows, "weight": weight, "bias": bias}
    return name, {key: value.float().contiguous() for key, value in unit.items() if value is not None}


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file that pyreft saved.

    Raises:
        HeftError: it is missing, is no file of torch's, or names anything but tensors.
    """
    open_file(path).close()
    try:
        named = _names_in(path)
    except Exception as error:  # of a damaged file zipfile and pickletools raise anything
        raise FileFault(path, f"it is no file that torch.save wrote: {str(error)[:200]}") from None
    other = sorted(named - _PLAIN)
    if other:
        reason = f"it names {other[0][:100]}, where a file of tensors names none: opening it could run code"
        raise FileFault(path, f"{reason}, so heft does not")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file torch raises anything
        raise FileFault(path, f"torch cannot read it: {str(error).splitlines()[0][:200]}") from None
    if not isinstance(state, dict) or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items()):
        raise FileFault(path, "it holds something else than named tensors")
    return dict(state)


def _names_in(path: Path) -> set[str]:
    """All that the pickles of a file name, without opening them.

    Raises:
        ValueError: the file is packed, so that it would be larger than it is, or a pickle is too long.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("its members are compressed, and torch compresses none")
        pickles = [member for member in members if member.filename.endswith(".pkl")]
        if not pickles or any(member.file_size > _MOST for member in pickles):
            raise ValueError("it has no pickle of tensors' names and shapes, or one that is too long")
        codes = (code for member in pickles for code in pickletools.genops(archive.read(member)))
        return {f"{argument}" for code, argument, _ in codes if code.name in _NAMING}


def _entries(values: Mapping[str, Any], faults: list[str]) -> list[dict[str, Any]]:
    """Layer number, site, class and key of every intervention, in pyreft's order."""
    shown, kinds, keys = (values.get(k) for k in ("representations", "intervention_types", "sorted_keys"))
    if (
        not all(isinstance(each, list) and each for each in (shown, kinds, keys))
        or len({*map(len, (shown, kinds, keys))}) > 1
    ):
        faults.append("its config.json has no equally long lists representations, intervention_types and sorted_keys")
        return []
    found = []
    for entry, kind, key in zip(shown, kinds, keys, strict=True):
        try:
            fields = representation(entry)
        except ValueError as error:
            faults.append(str(error))
            continue
        place = place_of(str(fields.get("component", "block_output")), fields.get("layer", 0))
        name = class_name(str(kind))
        if name not in CLASSES:
            faults.append(f"{key} is a {name}, which is none of {', '.join(CLASSES)}")
        if place is None and fields.get("component") in COMPONENTS.values():
            faults.append(f"{key} is in layer {show(fields.get('layer'))}, which is no number of a layer")
        elif place is None:
            sites = ", ".join(COMPONENTS.values())
            faults.append(f"{key} edits {fields.get('component')}, which is none of heft's sites ({sites})")
        for field, plain in (("unit", "pos"), ("max_number_of_units", 1)):
            if fields.get(field, plain) != plain:
                faults.append(
                    f"{key} has {field} {fields[field]!r}, and heft edits whole hidden states of single tokens"
                )
        if fields.get("subspace_partition") is not None:
            faults.append(f"{key} has a subspace_partition, which heft does not have")
        if not isinstance(key, str) or "/" in key or "\\" in key or len(key) > 200:
            faults.append("an entry of sorted_keys is no file name")
        elif place is not None:
            found.append({"site": place[0], "number": place[1], "class": name, "key": key})
    for what, word in (("site", "components"), ("class", "classes")):
        several = sorted({entry[what] for entry in found})
        if len(several) > 1:
            faults.append(
                f"its interventions are of several {word}, {', '.join(several)}, and an adapter of heft has one"
            )
    return found


def _groups(entries: list[dict[str, Any]], positions: str, shared: Any, faults: list[str]) -> tuple[str, list[str]]:
    """The site of all interventions, and the group of edited tokens that each has the weights of."""
    from heft.edits.positions import parse_positions

    site = entries[0]["site"]
    try:
        parsed = parse_positions(positions)
    except ValueError as error:
        faults.append(str(error))
        return site, []
    layers = [entry["number"] for entry in entries]
    half = len(layers) // 2
    both = bool(parsed.first and parsed.last)
    if len(set(layers)) == len(layers):
        if shared is False and both:
            faults.append("its config.json says share_weights false, and it has one intervention a layer")
        (group,) = parsed.groups(tied=True)
        return site, [group] * len(layers)
    if len(layers) % 2 or layers[:half] != layers[half:] or len(set(layers)) != half:
        faults.append(f"its interventions are in layers {layers}; expected each layer once, or all once and then again")
    elif not both:
        faults.append(
            f"it has two interventions a layer, for first and last tokens, and positions are {positions}: give both,"
            " such as f7+l7"
        )
    return site, ["first"] * half + ["last"] * half


def _free(unit: Unit) -> Unit:
    return {("basis" if key == "rotation" else key): value for key, value in unit.items()}


def _basis(unit: Unit) -> torch.Tensor:
    return unit["rotation"] if "rotation" in unit else unit["basis"]


def _unreadable(folder: Path, faults: list[str]) -> HeftError:
    shown = "".join(f"\n  {fault}" for fault in faults)
    return HeftError(f"{folder} cannot be imported exactly:{shown}")
