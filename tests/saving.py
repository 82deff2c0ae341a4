"""An adapter directory of whatever is on a base, without a run."""

from pathlib import Path

from heft.adapters.directory import save
from heft.adapters.manifest import FORMAT, AdapterEntry, AdapterManifest
from heft.models.load import Base


def save_adapters(directory: Path, base: Base, entries: list[AdapterEntry]) -> Path:
    """Write the adapters that `entries` name, in their order; returns the directory."""
    manifest = AdapterManifest(
        format=FORMAT,
        heft_version="0",
        model=base.settings,
        base_fingerprint=base.fingerprint,
        adapters=entries,
        task={"name": "whereabouts"},
        evaluation={},
    )
    save(directory, base.model, manifest)
    return directory
