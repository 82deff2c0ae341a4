"""The files of a repository on the Hub: card, `heft.json` and the adapters' folders, with nothing private in them."""

import json
import shutil
from pathlib import Path

from heft.adapters.hub import hub_id
from heft.adapters.manifest import AdapterEntry
from heft.adapters.safety import CONFIG, WEIGHTS, adapter_folder
from heft.sharing.card import card
from heft.sharing.facts import Facts
from heft.sharing.public import is_private, public_task
from heft.storage.atomic import sha256_of, to_json


def write_repository(folder: Path, facts: Facts, repository: str, revision: str = "main") -> list[Path]:
    """Fill an empty folder; returns the files in it.

    The hashes in `heft.json` are of the files as they are written here, which name the base as others know it.
    """
    entries = [_write_adapter(folder, facts, entry) for entry in facts.manifest.adapters]
    model = facts.manifest.model.model_copy(update={"name": facts.base, "revision": facts.revision})
    manifest = facts.manifest.model_copy(
        update={"model": model, "base_folder": None, "adapters": entries, "task": public_task(facts.manifest.task)}
    )
    (folder / "heft.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(facts, repository, revision), encoding="utf-8")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _write_adapter(folder: Path, facts: Facts, entry: AdapterEntry) -> AdapterEntry:
    there, own = adapter_folder(facts.directory, entry.name), folder / entry.name
    own.mkdir()
    shutil.copyfile(there / WEIGHTS, own / WEIGHTS)
    values = json.loads((there / CONFIG).read_text(encoding="utf-8"))
    values |= {"base_model_name_or_path": facts.base_on_the_hub or facts.base, "revision": facts.revision}
    (own / CONFIG).write_text(to_json(values), encoding="utf-8")
    hashes = {path.name: sha256_of(path) for path in sorted(own.iterdir())}
    source = entry.source
    if source is not None:
        given = source.given if hub_id(source.given) and not is_private(source.given) else "a local folder"
        source = source.model_copy(update={"given": given, "folder": ""})
    return entry.model_copy(update={"sha256": hashes, "source": source})
