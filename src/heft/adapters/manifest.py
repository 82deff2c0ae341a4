"""`heft.json`, which says what an adapter directory holds: read strictly, and its files held against its hashes."""

from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from heft.adapters.safety import adapter_folder, adapter_paths, require_inside
from heft.errors import HeftError
from heft.models.source import local_folder
from heft.recipe.recipe import ModelSettings
from heft.settings.base import Settings
from heft.storage.atomic import sha256_of
from heft.storage.reading import is_dir, is_file, read_json

FORMAT = 1
_FAULTS_SHOWN = 10


class AdapterEntry(Settings):
    """One adapter of the directory."""

    name: str
    """Its name and that of its folder."""
    method: Literal["lora", "reft"]
    """What kind it is; so it says in its own folder too."""
    stage: str
    """The stage that trained it."""
    sha256: dict[str, str] | None = None
    """Of each file of its folder, filled in by `save`; None: not looked at."""


class AdapterManifest(Settings):
    """What `heft.json` says."""

    format: int
    """Version of this layout."""
    heft_version: str
    """Version of heft that wrote it."""
    model: ModelSettings
    """The base model and how it was loaded."""
    base_folder: str | None = None
    """Where the base model was, as an absolute path, where it was a local folder; None: not one, or not written."""
    base_fingerprint: str
    """Of the base model (heft.models.fingerprints)."""
    tokenizer_fingerprint: str | None = None
    """Of its tokenizer , with its chat template where prompts go through it; None: not looked at."""
    adapters: list[AdapterEntry] = Field(min_length=1)
    """In the order in which they were trained."""
    task: dict
    """The task's settings, as resolved: how prompts were made."""
    evaluation: dict
    """The evaluation's settings, as resolved."""


def read_manifest(directory: Path) -> AdapterManifest:
    """Read `heft.json`.

    Raises:
        HeftError: there is none, it is not one that this version reads, its adapters lead out of the directory, or a
            file of theirs is not what was written.
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
        _require_as_written(adapter_folder(directory, entry.name), entry)
    return manifest


def _require_as_written(folder: Path, entry: AdapterEntry) -> None:
    for path in adapter_paths(folder) if entry.sha256 is not None else ():
        if entry.sha256.get(path.name) != sha256_of(path):
            raise HeftError(
                f"{path} is not what was written: its SHA-256 is another than in heft.json. Take a whole copy; if it"
                f" was changed on purpose, take `sha256` of {entry.name!r} out of heft.json"
            )


def base_settings(
    directory: Path, manifest: AdapterManifest, trust_remote_code: bool, base: str | None = None
) -> ModelSettings:
    """How to load the base that an adapter directory names; whose code it may run is for the person to say.

    A base in a local folder is looked for where it was, then at the path that the recipe had, from here. `base` is
    another place or Hub id to take it from.

    Raises:
        HeftError: the directory asks to run code that comes with the model, and the person has not allowed it; or the
            base was in a folder that is not there.
    """
    if manifest.model.trust_remote_code and not trust_remote_code:
        raise HeftError(
            f"the adapters in {directory} need code that comes with the model {manifest.model.name!r}, which could do"
            " anything on this machine. Read that code; if you trust it, say so with --trust-remote-code, or from"
            f" Python heft.load({str(directory)!r}, trust_remote_code=True)"
        )
    if base is not None:
        revision = manifest.model.revision if base == manifest.model.name else None
        return manifest.model.model_copy(update={"name": base, "revision": revision})
    name, folder = manifest.model.name, manifest.base_folder
    if folder is None:
        return manifest.model
    if not is_dir(Path(folder)):
        if local_folder(name) is None:
            raise HeftError(
                f"the base model of {directory} was in the folder {folder}, which does not exist, and neither does"
                f" {name} seen from {Path.cwd()}: give the folder where it is now with --base PATH, or from Python"
                f" heft.load({str(directory)!r}, base=PATH)"
            )
        return manifest.model
    return manifest.model.model_copy(update={"name": folder})
