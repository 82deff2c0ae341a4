"""What a run says of itself, as far as its files are there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heft.adapters.manifest import AdapterManifest, read_manifest
from heft.adapters.places import adapter_directory, run_directory
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.recipe.grid import configurations
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
        recipe: by which the adapters were trained, of a sweep the winner's; None for an adapter directory without its
            run.
        tried: of how many configurations of a sweep the recipe is the best; None where there was no sweep.
        run: manifest.json of the run; empty for an adapter directory without its run.
        stages: figures of the base and of each stage, in order; empty likewise.
        license: id of the license, as the Hub has them; None where none was given.
    """

    directory: Path
    manifest: AdapterManifest
    base: str
    recipe: Recipe | None
    tried: int | None
    run: dict[str, Any]
    stages: list[StageSummary]
    license: str | None

    @property
    def task(self) -> dict[str, Any]:
        """The task's settings, without paths."""
        return public_task(self.manifest.task)

    @property
    def revision(self) -> str | None:
        """The base's branch, tag or commit as the run named it; None where it named none, or the base has another name
        here, of which it says nothing."""
        return self.manifest.model.revision if self.base == self.manifest.model.name else None

    @property
    def is_checked(self) -> bool:
        """Whether the run would have been refused if one of its training rows were among the evaluated ones."""
        return self.recipe is not None and "train_in_eval" not in self.recipe.allow

    @property
    def continued(self) -> list[str]:
        """Names of the stages that started from another adapter, whose training rows the run did not see."""
        return list(dict.fromkeys(entry.stage for entry in self.manifest.adapters if entry.source is not None))

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
        HeftError: it is neither, is damaged, its base is a folder and no name is given, or the name is none.
    """
    directory = adapter_directory(given)
    manifest = read_manifest(directory)
    name = public_base(manifest.model.name if manifest.base_folder is None else manifest.base_folder, base)
    try:
        run = run_directory(directory)
    except HeftError:
        return Facts(directory, manifest, name, None, None, {}, [], license)
    recipe, tried = _recipe_of(run)
    about, summaries = read_json(run / "manifest.json"), read_summaries(run)
    return Facts(directory, manifest, name, recipe, tried, about, summaries, license)


def _recipe_of(run: Path) -> tuple[Recipe | None, int | None]:
    """`Facts.recipe` and `Facts.tried` of a run's directory."""
    if not is_file(run / "recipe.yaml"):
        return None, None
    recipe = load_recipe(run / "recipe.yaml")
    if recipe.sweep is None:
        return recipe, None
    return load_recipe(run / "winner.yaml"), len(configurations(recipe))
