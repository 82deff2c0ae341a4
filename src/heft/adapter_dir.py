"""The adapter directory: `heft.json` and one folder in PEFT's format for each adapter.

    adapter/
      heft.json      which base, which adapters in which order, how prompts are made
      coarse/        adapter_config.json, adapter_model.safetensors
      fine/          likewise

Each folder loads alone with `PeftModel.from_pretrained(base, folder)`, a LoRA one without heft.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from heft.errors import HeftError
from heft.models import Base, fingerprint, load_base
from heft.recipe import ModelSettings
from heft.settings import Settings
from heft.stages import activate, inject

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1
_PEFT_PREFIX = "base_model.model."


class AdapterEntry(Settings):
    """One adapter of the directory."""

    name: str
    """Its name and that of its folder."""
    method: str
    """lora or reft."""
    stage: str
    """The stage that trained it."""


class AdapterManifest(Settings):
    """What `heft.json` says."""

    format: int
    """Version of this layout."""
    heft_version: str
    """Version of heft that wrote it."""
    model: ModelSettings
    """The base model and how it was loaded."""
    base_fingerprint: str
    """Of the base model (heft.models.fingerprint)."""
    adapters: list[AdapterEntry]
    """In the order in which they were trained."""
    task: dict
    """The task's settings, as resolved: how prompts were made."""
    evaluation: dict
    """The evaluation's settings, as resolved."""


def save(directory: Path, model: "PreTrainedModel", manifest: AdapterManifest) -> None:
    """Write the model's adapters and `heft.json` to a new folder."""
    directory.mkdir(parents=True)
    for entry in manifest.adapters:
        save_adapter(directory / entry.name, model, entry.name)
    (directory / "heft.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def save_adapter(folder: Path, model: "PreTrainedModel", name: str) -> None:
    """Write one adapter in PEFT's format."""
    folder.mkdir()
    tensors = {_PEFT_PREFIX + key: value.contiguous() for key, value in _tensors(model, name).items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = PeftConfig.from_peft_type(**model.peft_config[name].to_dict())
    config.inference_mode = True
    config.save_pretrained(str(folder))


def stored_parameters(model: "PreTrainedModel") -> int:
    """How many numbers `save` keeps of the adapters that a model carries."""
    return sum(value.numel() for name in model.peft_config for value in _tensors(model, name).values())


def _tensors(model: "PreTrainedModel", name: str) -> "dict[str, torch.Tensor]":
    return get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)


def read_manifest(directory: Path) -> AdapterManifest:
    """Read `heft.json`.

    Raises:
        HeftError: there is none, or it is not one that this version reads.
    """
    path = directory / "heft.json"
    if not path.is_file():
        raise HeftError(f"{directory} is no adapter directory: it has no heft.json (a run's is runs/<name>/adapter)")
    try:
        manifest = AdapterManifest(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, ValidationError) as error:
        raise HeftError(f"{path} cannot be read: {error}") from None
    if manifest.format != FORMAT:
        raise HeftError(f"{path} has format {manifest.format}; this version of heft reads format {FORMAT}")
    return manifest


@dataclass(frozen=True)
class Loaded:
    """An adapted model: `model` carries the adapters, frozen and active, in evaluation mode."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    manifest: AdapterManifest


def open_adapters(directory: str | Path, base: Base | None = None, device: str | None = None) -> Loaded:
    """Load the base that an adapter directory names, or take the one given, and attach its adapters.

    Raises:
        HeftError: the directory cannot be read, or the base model is another than the adapters were trained on.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if base is None:
        base = load_base(manifest.model if device is None else manifest.model.model_copy(update={"device": device}))
    if base.fingerprint != manifest.base_fingerprint:
        raise HeftError(
            f"the adapters in {directory} were trained on {manifest.model.name} with fingerprint"
            f" {manifest.base_fingerprint}; the base model given has {base.fingerprint}: it is another model"
        )
    for entry in manifest.adapters:
        attach_saved(base.model, directory / entry.name, entry.name)
    base.model.eval()
    return Loaded(base.model, base.tokenizer, manifest)


def attach_saved(model: "PreTrainedModel", folder: Path, name: str) -> None:
    """Attach one saved adapter, exactly as it was saved.

    Raises:
        HeftError: files are missing, or tensors are missing, left over or of another shape; all are named.
    """
    missing = [f for f in ("adapter_config.json", "adapter_model.safetensors") if not (folder / f).is_file()]
    if missing:
        raise HeftError(f"adapter {name!r}: {folder} lacks {', '.join(missing)}")
    inject(model, name, PeftConfig.from_pretrained(str(folder)))
    saved = load_file(folder / "adapter_model.safetensors")
    expected = {_PEFT_PREFIX + key: value for key, value in _tensors(model, name).items()}
    faults = [f"{key} is missing" for key in expected.keys() - saved.keys()]
    faults += [f"{key} is left over" for key in saved.keys() - expected.keys()]
    for key in expected.keys() & saved.keys():
        if expected[key].shape != saved[key].shape:
            faults.append(f"{key} is {list(saved[key].shape)}, expected {list(expected[key].shape)}")
    if faults:
        shown = "\n  ".join(sorted(faults)[:10])
        raise HeftError(f"adapter {name!r} in {folder} does not fit its base model ({len(faults)} tensors):\n  {shown}")
    set_peft_model_state_dict(model, saved, adapter_name=name)
    activate(model, list(model.peft_config))


def load(
    directory: str | Path, model: "PreTrainedModel | None" = None, device: str | None = None
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The adapted model and its tokenizer, equal to the bit to what was trained.

    Args:
        directory: an adapter directory, such as `runs/quickstart/adapter`.
        model: the base model, if it is loaded already; None loads the one that the directory names.
        device: "cpu", "cuda" or "mps"; None takes the one that the recipe asked for.

    Returns:
        A transformers model with the adapters attached, frozen and active, and a tokenizer that pads on the left.

    Raises:
        HeftError: the directory cannot be read, or the base is not the one that the adapters were trained on.
    """
    if model is None:
        loaded = open_adapters(directory, device=device)
    else:
        from heft.models import load_tokenizer

        settings = read_manifest(Path(directory)).model
        loaded = open_adapters(directory, Base(model, load_tokenizer(settings), settings, fingerprint(model)))
    return loaded.model, loaded.tokenizer
