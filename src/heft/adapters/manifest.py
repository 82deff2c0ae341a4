"""`heft.json`, which says what an adapter directory holds; its files are checked against the hashes in it."""

from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from heft.adapters.replacing import finish_replacing
from heft.adapters.safety import adapter_folder, adapter_paths, require_inside
from heft.errors import HeftError
from heft.models.source import local_folder
from heft.recipe.files import with_paths_from
from heft.recipe.model import ModelSettings
from heft.settings.base import Settings
from heft.settings.words import faults_of, in_one_line
from heft.storage.atomic import sha256_of
from heft.storage.reading import is_dir, is_file, read_json

FORMAT = 1


class SourceEntry(Settings):
    """Where an adapter came from that its stage started with."""

    given: str
    """As the recipe named it."""
    folder: str
    """Absolute path of the folder that held its files."""
    sha256: dict[str, str]
    """File name → SHA-256 of what it was."""


class AdapterEntry(Settings):
    """One adapter of the directory."""

    name: str
    """Its name and that of its folder."""
    method: Literal["lora", "reft"]
    """Its method, as its own folder says too."""
    stage: str
    """The stage that trained it."""
    source: SourceEntry | None = None
    """What the stage started with; None for a new adapter."""
    sha256: dict[str, str] | None = None
    """File name → SHA-256, filled in by `save`; None: not checked."""


class AdapterManifest(Settings):
    """What `heft.json` says."""

    format: int
    """Version of this layout."""
    heft_version: str
    """Version of heft that wrote it."""
    model: ModelSettings
    """The base model and how it was loaded."""
    base_folder: str | None = None
    """Absolute path of the base model, if it was a local folder; None: it was not, or that is unknown."""
    base_fingerprint: str
    """Of the base model (heft.models.fingerprints)."""
    tokenizer_fingerprint: str | None = None
    """Of its tokenizer, with its chat template where prompts go through it; None: not checked."""
    adapters: list[AdapterEntry] = Field(min_length=1)
    """In the order of training."""
    task: dict
    """The task's resolved settings: how prompts were made."""
    evaluation: dict
    """The evaluation's resolved settings."""


def read_manifest(directory: Path) -> AdapterManifest:
    """Read `heft.json`.

    Raises:
        HeftError: there is none, this version cannot read it, its adapters lead out of the directory, or a file of
            theirs was changed.
    """
    finish_replacing(directory)
    path = directory / "heft.json"
    if not is_file(path):
        raise HeftError(
            f"{directory} is not an adapter directory: it has no heft.json (a run's is runs/<name>/adapter)"
        )
    require_inside(directory, path)
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise HeftError(f"{path} has format {values.get('format')!r}; this version of heft reads format {FORMAT}")
    try:
        manifest = AdapterManifest.model_validate(values, strict=True)
    except ValidationError as error:
        raise HeftError(f"{path} cannot be read: {in_one_line(faults_of(error, AdapterManifest))}") from None
    twice = [name for name, count in Counter(entry.name for entry in manifest.adapters).items() if count > 1]
    if twice:
        raise HeftError(f"{path} names the adapter {twice[0][:80]!r} twice; each has a folder of its own")
    for entry in manifest.adapters:
        _require_as_written(adapter_folder(directory, entry.name), entry)
    return manifest.model_copy(update={"task": with_paths_from(manifest.task, directory)})


def _require_as_written(folder: Path, entry: AdapterEntry) -> None:
    for path in adapter_paths(folder) if entry.sha256 is not None else ():
        if entry.sha256.get(path.name) != sha256_of(path):
            raise HeftError(
                f"{path} is not what was written: its SHA-256 differs from the one in heft.json. Take a whole copy; if"
                f" it was changed on purpose, remove `sha256` of {entry.name!r} from heft.json"
            )


def base_settings(
    directory: Path, manifest: AdapterManifest, trust_remote_code: bool, base: str | None = None
) -> ModelSettings:
    """How to load the base that an adapter directory names; whether its code may run is for the user to say.

    A base in a local folder is looked for where it was, then at the path that the recipe had, from here, then in the
    folder that the directory is in, as `heft export` writes a merged model. `base` is another place or Hub id to take
    it from.

    Raises:
        HeftError: the directory asks to run code that comes with the model, and the user has not allowed it; or the
            base was in a folder that does not exist.
    """
    if manifest.model.trust_remote_code and not trust_remote_code:
        raise HeftError(
            f"the adapters in {directory} need code that comes with the model {manifest.model.name!r}, which could do"
            " anything on this machine. Read that code; if you trust it, give --trust-remote-code, or from"
            f" Python heft.load({str(directory)!r}, trust_remote_code=True)"
        )
    if base is not None:
        revision = manifest.model.revision if base == manifest.model.name else None
        return manifest.model.model_copy(update={"name": base, "revision": revision})
    name, folder = manifest.model.name, manifest.base_folder
    if folder is None:
        return manifest.model
    if not is_dir(Path(folder)):
        above = directory.absolute().parent
        if local_folder(name) is None and is_file(above / "config.json"):
            return manifest.model.model_copy(update={"name": str(above)})
        if local_folder(name) is None:
            raise HeftError(
                f"the base model of {directory} was in the folder {folder}, which does not exist, and neither does"
                f" {name} seen from {Path.cwd()}: give the folder where it is now with --base PATH, or from Python"
                f" heft.load({str(directory)!r}, base=PATH)"
            )
        return manifest.model
    return manifest.model.model_copy(update={"name": folder})
