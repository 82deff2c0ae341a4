"""Where an adapter comes from that a stage starts with (`from`): its files, their hashes, and what it was trained on.

A folder in PEFT's format, an adapter directory of heft or a run (of which one adapter is meant), or a Hub id. Its
files are checked as those of strangers are; a configuration that PEFT wrote is read by heft.adapters.foreign.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peft import PeftConfig

from heft.adapters.foreign import read_foreign_config
from heft.adapters.hub import downloaded, hub_id
from heft.adapters.manifest import AdapterManifest, read_manifest
from heft.adapters.safety import CONFIG, WEIGHTS, adapter_paths, method_name
from heft.adapters.weights import read_shapes
from heft.edits.settings import ReftSettings
from heft.errors import HeftError
from heft.recipe.recipe import LoraSettings, Stage
from heft.settings.words import show
from heft.storage.atomic import sha256_of
from heft.storage.reading import is_dir, is_file

_OF_LORA = (".lora_", ".token_adapter.", "trainable_tokens")
_EXPECTED = (
    "give a folder with adapter_config.json and adapter_model.safetensors (PEFT's save_pretrained), a run or adapter"
    " directory of heft, or a Hub id such as ORG/NAME"
)


@dataclass(frozen=True)
class AdapterSource:
    """An adapter that exists.

    Attributes:
        given: as the recipe names it.
        folder: that holds its two files; of a Hub id, where they were downloaded to.
        config: PEFT's, in the form that heft writes.
        weights: the file.
        sha256: file name → SHA-256, 64 hex digits.
        base_name: what it was trained on, as its files name that; None where they do not.
        base_fingerprint: likewise (heft.models.fingerprints).
        behind: names of the adapters that it was trained on top of.
    """

    given: str
    folder: Path
    config: PeftConfig
    weights: Path
    sha256: dict[str, str]
    base_name: str | None
    base_fingerprint: str | None = None
    behind: tuple[str, ...] = ()

    @property
    def copies(self) -> list[str]:
        """Tensors that are no part of the adapter: PEFT saves embeddings whole that it adapts, or takes for new."""
        if method_name(self.config) != "lora":
            return []
        return sorted(key for key in read_shapes(self.weights) if not any(part in key for part in _OF_LORA))

    def described(self) -> dict:
        """For manifests: what was given, where it was, and the hashes."""
        return {"given": self.given, "folder": str(self.folder), "sha256": self.sha256}


def find_source(given: str, method: str) -> AdapterSource:
    """The adapter that a recipe's `from` means, for a stage of a method ("lora" or "reft").

    Raises:
        HeftError: there is none, several are meant, it is of another method, or its files are not as they should be or
            hold what heft cannot keep.
    """
    folder = Path(os.path.expanduser(given))
    if is_dir(folder):
        chosen, manifest = _chosen(folder, method)
        source = _read(given, chosen, method)
        return source if manifest is None else _in_a_directory(source, manifest)
    if os.path.exists(folder):
        raise HeftError(f"{given} is a file; {_EXPECTED}")
    hub = hub_id(given)
    if hub is None:
        seen_from = "" if folder.is_absolute() else f" (seen from {Path.cwd()})"
        raise HeftError(f"{given} does not exist{seen_from}; {_EXPECTED}")
    there = downloaded(*hub)
    if not is_file(there / CONFIG) and not is_file(there / "heft.json"):
        raise HeftError(
            f"adapter {given} on the Hub lacks {CONFIG} or {WEIGHTS}; where it has a .bin, which heft never opens since"
            " it can run any code, ask for safetensors"
        )
    chosen, manifest = _chosen(there, method)
    source = _read(given, chosen, method)
    return source if manifest is None else _in_a_directory(source, manifest)


_KEYS = {
    "rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "targets": "target_modules",
    "exclude": "exclude_modules",
    "layers": "layers_to_transform",
    "rslora": "use_rslora",
    "dora": "use_dora",
}
"""Settings of a LoRA stage, as PEFT names them; those of ReFT, and all others, have one name."""


def require_agreement(stage: Stage, source: AdapterSource) -> None:
    """Require that what a stage says of its adapter is what the files say; what it does not say comes from them.

    Raises:
        HeftError: it is not; each setting is named with both values.
    """
    is_lora, faults = stage.method == "lora", []
    for key in (LoraSettings if is_lora else ReftSettings).model_fields:
        if key not in stage.model_fields_set:
            continue
        given, found = getattr(stage, key), _found(source.config, _KEYS.get(key, key) if is_lora else key)
        found = "all" if found is None and key in ("layers", "positions") else [] if found is None else found
        one, other = (sorted(map(str, v)) if isinstance(v, list | set) else v for v in (given, found))
        if one != other:
            there = sorted(map(str, found)) if isinstance(found, set) else found
            faults.append(f"{key} is {show(given)} in the recipe and {show(there)} in {source.folder / CONFIG}")
    if faults:
        raise HeftError(f"{'; '.join(faults)}: remove what the recipe says, since an adapter keeps its settings")


def _found(config: PeftConfig, key: str) -> Any:
    """A configuration's setting; experts' weights, which PEFT lists apart, are among the targets."""
    found = getattr(config, key, None)
    experts = getattr(config, "target_parameters", None) if key == "target_modules" else None
    return {*(found or ()), *experts} if experts else found


def _chosen(folder: Path, method: str) -> tuple[Path, AdapterManifest | None]:
    """The folder of the adapter that is meant, and the manifest of the directory that it is in."""
    for directory in (folder, folder / "adapter"):
        if is_file(directory / "heft.json"):
            manifest = read_manifest(directory)
            named = [entry.name for entry in manifest.adapters if entry.method == method]
            if len(named) == 1:
                return directory / named[0], manifest
            there_are = ", ".join(f"{entry.name} ({entry.method})" for entry in manifest.adapters)
            which = f"say which: {directory / named[0]}" if named else "none is of this stage's method"
            raise HeftError(f"{directory} has the adapters {there_are}, {len(named) or 'none'} of {method}; {which}")
    if is_file(folder / CONFIG):
        above = folder.parent
        if is_file(above / "heft.json"):
            manifest = read_manifest(above)
            if folder.name in [entry.name for entry in manifest.adapters]:
                return folder, manifest
        return folder, None
    if is_file(folder / "config.json"):
        raise HeftError(f"{folder} holds a model, no adapter: name it in model.name; {_EXPECTED}")
    adapter_paths(folder)  # says what is missing, and of pickles why they are not read
    raise AssertionError("it has no configuration")


def _read(given: str, folder: Path, method: str) -> AdapterSource:
    config_path, weights = adapter_paths(folder)
    config = read_foreign_config(config_path, weights)
    found = method_name(config)
    if found != method:
        raise HeftError(f"{folder} is an adapter of {found}, and the stage's method is {method}; set method: {found}")
    hashes = {path.name: sha256_of(path) for path in (config_path, weights)}
    return AdapterSource(given, folder, config, weights, hashes, config.base_model_name_or_path or None)


def _in_a_directory(source: AdapterSource, manifest: AdapterManifest) -> AdapterSource:
    names = [entry.name for entry in manifest.adapters]
    return replace(
        source,
        base_name=manifest.model.name,
        base_fingerprint=manifest.base_fingerprint,
        behind=tuple(names[: names.index(source.folder.name)]),
    )
