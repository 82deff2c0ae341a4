"""The adapter directory: `heft.json` and one folder in PEFT's format for each adapter.

    adapter/
      heft.json      which base, which adapters in which order, how prompts are made
      coarse/        adapter_config.json, adapter_model.safetensors
      fine/          likewise

Each folder loads alone with `PeftModel.from_pretrained(base, folder)`, a LoRA one without heft.
"""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from heft.adapter_files import adapter_folder, adapter_paths, read_config, require_inside
from heft.errors import HeftError
from heft.files import new_folder, save_tensors
from heft.models import Base, fingerprint, load_base
from heft.reading import is_file, read_json
from heft.recipe import ModelSettings
from heft.settings import Settings
from heft.stages import activate, inject
from heft.weights_files import read_header, require_fit

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1
_FAULTS_SHOWN = 10
_PEFT_PREFIX = "base_model.model."


class AdapterEntry(Settings):
    """One adapter of the directory."""

    name: str
    """Its name and that of its folder."""
    method: Literal["lora", "reft"]
    """What kind it is; so it says in its own folder too."""
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
    adapters: list[AdapterEntry] = Field(min_length=1)
    """In the order in which they were trained."""
    task: dict
    """The task's settings, as resolved: how prompts were made."""
    evaluation: dict
    """The evaluation's settings, as resolved."""


def save(directory: Path, model: "PreTrainedModel", manifest: AdapterManifest) -> None:
    """Write the model's adapters and `heft.json` to a new folder, which appears whole or not at all."""
    with new_folder(directory) as partial:
        for entry in manifest.adapters:
            save_adapter(partial / entry.name, model, entry.name)
        (partial / "heft.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def save_adapter(folder: Path, model: "PreTrainedModel", name: str) -> None:
    """Write one adapter in PEFT's format."""
    folder.mkdir()
    tensors = {_PEFT_PREFIX + key: value.contiguous() for key, value in _tensors(model, name).items()}
    save_tensors(tensors, folder / "adapter_model.safetensors")
    config = PeftConfig.from_peft_type(**model.peft_config[name].to_dict())
    config.inference_mode = True
    for key, value in vars(config).items():
        if isinstance(value, set):  # of names, whose order is another in every process
            setattr(config, key, sorted(value))
    config.save_pretrained(str(folder))


def stored_parameters(model: "PreTrainedModel") -> int:
    """How many numbers `save` keeps of the adapters that a model carries."""
    return sum(value.numel() for name in model.peft_config for value in _tensors(model, name).values())


def _tensors(model: "PreTrainedModel", name: str) -> "dict[str, torch.Tensor]":
    return get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)


def read_manifest(directory: Path) -> AdapterManifest:
    """Read `heft.json`.

    Raises:
        HeftError: there is none, it is not one that this version reads, or its adapters lead out of the directory.
    """
    path = directory / "heft.json"
    if not is_file(path):
        raise HeftError(f"{directory} is no adapter directory: it has no heft.json (a run's is runs/<name>/adapter)")
    require_inside(directory, path)
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise HeftError(f"{path} has format {values.get('format')!r}; this version of heft reads format {FORMAT}")
    try:
        manifest = AdapterManifest.model_validate(values, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)[:_FAULTS_SHOWN]
        shown = "; ".join(f"{'.'.join(map(str, fault['loc']))[:80]}: {fault['msg']}" for fault in faults)
        raise HeftError(f"{path} cannot be read: {shown}") from None
    twice = [name for name, count in Counter(entry.name for entry in manifest.adapters).items() if count > 1]
    if twice:
        raise HeftError(f"{path} names the adapter {twice[0][:80]!r} twice; each has a folder of its own")
    for entry in manifest.adapters:
        adapter_folder(directory, entry.name)
    return manifest


def base_settings(directory: Path, manifest: AdapterManifest, trust_remote_code: bool) -> ModelSettings:
    """How to load the base that an adapter directory names; whose code it may run is for the person to say.

    Raises:
        HeftError: the directory asks to run code that comes with the model, and the person has not allowed it.
    """
    if manifest.model.trust_remote_code and not trust_remote_code:
        raise HeftError(
            f"the adapters in {directory} need code that comes with the model {manifest.model.name!r}, which could do"
            " anything on this machine. Read that code; if you trust it, say so with --trust-remote-code, or from"
            f" Python heft.load({str(directory)!r}, trust_remote_code=True)"
        )
    return manifest.model


@dataclass(frozen=True)
class Loaded:
    """An adapted model: `model` carries the adapters, frozen and active, in evaluation mode."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    manifest: AdapterManifest


def open_adapters(
    directory: str | Path, base: Base | None = None, device: str | None = None, trust_remote_code: bool = False
) -> Loaded:
    """Load the base that an adapter directory names, or take the one given, and attach its adapters.

    Raises:
        HeftError: the directory cannot be read, asks to run a model's code without leave, or the base model is another
            than the adapters were trained on.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if base is None:
        settings = base_settings(directory, manifest, trust_remote_code)
        base = load_base(settings if device is None else settings.model_copy(update={"device": device}))
    if base.fingerprint != manifest.base_fingerprint:
        raise HeftError(
            f"the adapters in {directory} were trained on {manifest.model.name} with fingerprint"
            f" {manifest.base_fingerprint}; the base model given has {base.fingerprint}: it is another model"
        )
    skeleton = skeleton_of(base.model)
    folders = {entry.name: adapter_folder(directory, entry.name) for entry in manifest.adapters}
    fitting = {name: _fitting(folder, name, skeleton) for name, folder in folders.items()}
    for entry in manifest.adapters:
        found = fitting[entry.name][0].peft_type.value.lower()
        if found != entry.method:
            raise HeftError(f"heft.json calls {entry.name} a {entry.method} adapter, and its own folder {found}")
    for name, (config, path) in fitting.items():
        _attach(base.model, name, config, path)
    base.model.eval()
    return Loaded(base.model, base.tokenizer, manifest)


def attach_saved(model: "PreTrainedModel", folder: Path, name: str) -> None:
    """Attach one saved adapter, exactly as it was saved; the model is not touched before all of it is known to fit.

    Raises:
        HeftError: files are missing or not as heft writes them, or tensors are missing, left over or of another shape;
            all are named.
    """
    _attach(model, name, *_fitting(folder, name, skeleton_of(model)))


def _fitting(folder: Path, name: str, skeleton: "PreTrainedModel") -> tuple[PeftConfig, Path]:
    """An adapter's configuration and weights file, tried on a model without weights."""
    config_path, path = adapter_paths(folder)
    config = read_config(config_path)
    found = read_header(path)
    require_fit(path, name, found, expected_tensors(skeleton, name, copy.deepcopy(config), path))
    return config, path


def _attach(model: "PreTrainedModel", name: str, config: PeftConfig, path: Path) -> None:
    try:
        saved = load_file(path)
    except (SafetensorError, OSError) as error:
        raise HeftError(f"{path} cannot be read: {error}") from None
    inject(model, name, config)
    set_peft_model_state_dict(model, saved, adapter_name=name)
    activate(model, list(model.peft_config))


def skeleton_of(model: "PreTrainedModel") -> "PreTrainedModel":
    """The model's modules without weights, so that what is attached to it takes no memory either."""
    import torch

    with torch.device("meta"):
        return type(model)(copy.deepcopy(model.config))


def expected_tensors(
    skeleton: "PreTrainedModel", name: str, config: PeftConfig, path: Path
) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the tensors that an adapter has on its base; it is attached to the skeleton.

    Raises:
        HeftError: it finds no place there.
    """
    import torch

    try:
        with torch.device("meta"):
            inject(skeleton, name, config)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:  # what PEFT and torch raise for what does not fit
        raise HeftError(f"adapter {name!r} in {path.parent} does not fit its base model: {error}") from None
    return {_PEFT_PREFIX + key: tuple(value.shape) for key, value in _tensors(skeleton, name).items()}


def load(
    directory: str | Path,
    model: "PreTrainedModel | None" = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The adapted model and its tokenizer, equal to the bit to what was trained.

    Args:
        directory: an adapter directory, such as `runs/quickstart/adapter`.
        model: the base model, if it is loaded already; None loads the one that the directory names.
        device: "cpu", "cuda" or "mps"; None takes the one that the recipe asked for.
        trust_remote_code: whether code that comes with the base model may run, where the directory asks for it.

    Returns:
        A transformers model with the adapters attached, frozen and active, and a tokenizer that pads on the left.

    Raises:
        HeftError: the directory cannot be read, asks to run a model's code without leave, or the base is not the one
            that the adapters were trained on.
    """
    if model is None:
        loaded = open_adapters(directory, device=device, trust_remote_code=trust_remote_code)
    else:
        from heft.models import load_tokenizer

        settings = base_settings(Path(directory), read_manifest(Path(directory)), trust_remote_code)
        loaded = open_adapters(directory, Base(model, load_tokenizer(settings), settings, fingerprint(model)))
    return loaded.model, loaded.tokenizer
