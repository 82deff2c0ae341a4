"""What a run says of itself, as far as its files are there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heft.adapters.manifest import AdapterManifest, read_manifest
from heft.adapters.places import adapter_directory, run_directory
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.recipe.recipe import Recipe
from heft.results.summary import StageSummary, read_summaries
from heft.sharing.public import ON_THE_HUB, public_base, public_task
from heft.storage.reading import is_file, read_json
from heft.tasks import TASKS
from heft.tasks.sources import HubSource


@dataclass(frozen=True)
class Facts:
    """What a card says.

    Attributes:
        directory: the adapter directory.
        manifest: its heft.json.
        base: the base model's public name, as heft takes it.
        recipe: of the run; None for an adapter directory without its run.
        run: manifest.json of the run; empty likewise.
        stages: figures of the base and of each stage, in order; empty likewise.
        license: id of the license, as the Hub has them; None where none was given.
    """

    directory: Path
    manifest: AdapterManifest
    base: str
    recipe: Recipe | None
    run: dict[str, Any]
    stages: list[StageSummary]
    license: str | None

    @property
    def task(self) -> dict[str, Any]:
        """The task's settings, without paths."""
        return public_task(self.manifest.task)

    @property
    def base_on_the_hub(self) -> str | None:
        """The Hub id of the base; None for a model that no Hub has."""
        name = ON_THE_HUB.get(self.base, self.base)
        return None if ":" in name else name

    @property
    def dataset(self) -> str | None:
        """The Hub id of the training data; None where they are no data set of the Hub."""
        settings = self.task
        task = TASKS.get(settings.get("name"))
        source = getattr(task.settings_type, "sources", {}).get("hub") if task is not None else None
        if isinstance(source, HubSource):
            return source.path
        train = settings.get("train")
        return train.partition(":")[0] if isinstance(train, str) and "/" in train else None


def facts_of(given: str | Path, base: str | None = None, license: str | None = None) -> Facts:
    """Read a run or an adapter directory; `base` is the base's name for others, where it is a folder here.

    Raises:
        HeftError: it is neither, is damaged, or its base is a folder and no name is given.
    """
    directory = adapter_directory(given)
    manifest = read_manifest(directory)
    name = public_base(manifest.model.name if manifest.base_folder is None else manifest.base_folder, base)
    try:
        run = run_directory(directory)
    except HeftError:
        return Facts(directory, manifest, name, None, {}, [], license)
    recipe = load_recipe(run / "recipe.yaml") if is_file(run / "recipe.yaml") else None
    return Facts(directory, manifest, name, recipe, read_json(run / "manifest.json"), read_summaries(run), license)
