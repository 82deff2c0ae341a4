"""A study's file and the recipes of its arms, read together: every fault of any of them is reported with its line."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heft.errors import HeftError
from heft.recipe.files import allow_imports_for, read_recipe_document, with_paths_from
from heft.recipe.ready import located
from heft.recipe.recipe import Recipe
from heft.settings.files import (
    Document,
    Fault,
    Place,
    apply_overrides,
    check,
    faults_error,
    read_document,
    set_value,
    to_yaml,
)
from heft.storage.reading import is_file
from heft.study.settings import StudySettings
from heft.tasks import is_own
from heft.text.command import command

_RECIPES = 10**6  # sorts the faults of recipes behind those of the study and its overrides


@dataclass(frozen=True)
class Study:
    """A study that has been checked.

    Attributes:
        path: its file.
        settings: what it says.
        recipes: each arm's, before budget and seeds are applied.
    """

    path: Path
    settings: StudySettings
    recipes: dict[str, Recipe]

    @property
    def directory(self) -> Path:
        """The directory that the study writes."""
        return self.settings.output_dir

    def run_of(self, arm: str, recipe: Recipe, seed: int) -> Recipe:
        """The recipe of one run of an arm, whose stages have the length that its budget gives them."""
        output = self.directory / arm / f"seed-{seed}"
        return recipe.model_copy(
            update={"name": f"{self.settings.name}-{arm}", "seed": seed, "output": output.as_posix()}
        )


def load_study(path: str | Path, overrides: Sequence[str] = (), output: str | Path | None = None) -> Study:
    """Read a study and the recipes of its arms, apply overrides, check everything.

    Args:
        path: a YAML file, or the name of a study that comes with heft, such as `paper/embedded`.
        overrides: `key.path=value` each, applied to the study, such as `seeds=[0]` or `set.task.train_limit=500`.
        output: replaces the study's `output`.

    Raises:
        HeftError: a file cannot be read, or anything in them is wrong; a line for each fault.
    """
    path = located(path)
    document = read_document(path, StudySettings, "study", "paper/embedded, which comes with heft")
    apply_overrides(document, overrides, output, dotted_below="set")
    if not isinstance(document.data, dict):
        raise faults_error(document.faults)
    if "stages" in document.data and "arms" not in document.data:
        raise HeftError(
            f"{path} is a recipe, and a study was expected, which names recipes as its arms; "
            f"`{command('train', path)}` runs a recipe"
        )
    parts = {arm: _arm_document(document, arm, path.parent) for arm in _readable_arms(document.data)}
    settings = check(document, StudySettings)
    recipes, faults = {}, []
    for arm, part in parts.items():
        recipe = check(part, Recipe) if isinstance(part.data, dict) else None
        if recipe is not None:
            recipes[arm] = recipe
            _check_in_a_study(recipe, part, settings and settings.budget_of(arm) is not None)
        faults += part.faults
    if settings is not None:
        _check_between_arms(settings, recipes, document)
        _check_modules({arm: located(settings.arms[arm].recipe, path.parent) for arm in recipes}, recipes, document)
    faults += document.faults
    if faults or settings is None:
        raise faults_error(faults)
    return Study(path, settings, recipes)


def dump_study(study: Study) -> str:
    """A study as YAML with every default written out; paths of recipes are from the study's directory."""
    data, folder = study.settings.model_dump(mode="json"), study.path.parent
    for arm in data["arms"].values():
        file = folder / arm["recipe"]
        if located(arm["recipe"], folder) == file:  # else the name of one that comes with heft
            there = file.parent.resolve() / file.name  # the system goes up from where a link leads, not from the link
            arm["recipe"] = Path(os.path.relpath(there, study.directory.resolve())).as_posix()
    return to_yaml(data)


def _readable_arms(data: dict[str, Any]) -> Iterator[str]:
    """Arms whose recipe can be read, whatever else is wrong with the study."""
    arms = data.get("arms")
    for name, arm in arms.items() if isinstance(arms, dict) else ():
        if isinstance(arm, dict) and isinstance(arm.get("recipe"), str) and arm["recipe"]:
            yield name


def _arm_document(study: Document, arm: str, folder: Path) -> Document:
    """An arm's recipe with the study's changes; faults of these are reported at their lines in the study."""
    file = located(study.data["arms"][arm]["recipe"], folder)
    try:
        document = read_recipe_document(file, source=_RECIPES)
    except HeftError as error:
        study.fault(("arms", arm, "recipe"), str(error))
        return Document()
    if not is_file(folder / "study.json"):  # else it is the copy in a study's directory, perhaps a stranger's
        allow_imports_for(file)
    for path in (("set",), ("arms", arm, "set")):
        values = study.data if path == ("set",) else study.data["arms"][arm]
        for key in values.get("set", {}) if isinstance(values.get("set"), dict) else ():
            if isinstance(document.data, dict):
                _change(document, study, (*path, key))
    _locate_rows(document, study, arm, folder)
    return document


def _change(recipe: Document, study: Document, path: tuple[str, ...]) -> None:
    """Apply what the study sets at `path`, whose last part is a key of the recipe, dots and all."""

    def place_in_study(place: Place) -> Place:
        return place._replace(label=f"{place.label}: {'.'.join(path[:-1])}")

    keys = tuple(path[-1].split("."))
    place = place_in_study(study.place_of(path))
    if not all(keys):
        recipe.faults.append(Fault(place, (), f"expected a key such as stages.fine.rank; got {path[-1]!r}"))
        return
    set_value(recipe, keys, study.part(path, place_in_study), place)


def _locate_rows(recipe: Document, study: Document, arm: str, folder: Path) -> None:
    """Make paths of rows that the study sets absolute, in the arm's recipe and in the study.

    Those in the study's file count from its folder, those of overrides from the working directory.
    """
    task = recipe.data.get("task") if isinstance(recipe.data, dict) else None
    for key, given in list(task.items()) if isinstance(task, dict) else ():
        source = recipe.place_of(("task", key)).source
        if source == _RECIPES:
            continue
        task[key] = with_paths_from(task, Path() if source else folder, is_saved=False)[key]
        for values in (study.data.get("set"), study.data["arms"][arm].get("set")):
            if isinstance(values, dict):
                below = values["task"] if isinstance(values.get("task"), dict) else {}
                for there, name in ((values, f"task.{key}"), (below, key)):
                    if name in there and there[name] == given:
                        there[name] = task[key]


def _check_in_a_study(recipe: Recipe, document: Document, has_budget: bool) -> None:
    """What is right in a recipe but not in a study."""
    if recipe.sweep is not None:
        document.fault(("sweep",), "a study trains single runs; set sweep: null")
    for name, stage in recipe.stages.items():
        if stage.seed is not None:
            text = "would be the same in all runs of a study, which have seeds to differ in; set it to null"
            document.fault(("stages", name, "seed"), text)
        if has_budget and stage.is_frozen:
            text = "trains nothing, so no budget can be shared out over the stages; set the budget to null"
            document.fault(("stages", name, "from"), text)
        if has_budget and stage.early_stopping is not None:
            text = "its cost is not known in advance, so it fits no budget; set early_stopping or the budget to null"
            document.fault(("stages", name, "early_stopping"), text)


def _check_between_arms(settings: StudySettings, recipes: dict[str, Recipe], study: Document) -> None:
    """Arms whose cost is another's budget but not known beforehand; a base that is not one for all arms."""
    for name in settings.arms:
        budget = settings.budget_of(name)
        other = None if budget is None else budget.other
        if other in recipes and any(stage.early_stopping is not None for stage in recipes[other].stages.values()):
            path = ("arms", name, "budget") if settings.arms[name].budget else ("budget",)
            study.fault(path, f"arm {other!r} has a stage with early_stopping, so its cost is not known in advance")
    first = next(iter(recipes), None)
    unlike = [name for name, recipe in recipes.items() if recipe.model != recipes[first].model]
    if settings.base and unlike:
        text = f"needs arms of one model; {', '.join(unlike)} and {first} have not the same; set base to false"
        study.fault(("base",), text)


def _check_modules(files: dict[str, Path], recipes: dict[str, Recipe], study: Document) -> None:
    """Tasks in code of several arms: a process has one module of a name, so all would run the first one's."""
    first: dict[str, Path] = {}
    for arm, recipe in recipes.items():
        module = recipe.task.name.partition(":")[0]
        code = files[arm].parent / f"{module.replace('.', '/')}.py"
        if not is_own(recipe.task.name) or not is_file(code):
            continue
        other = first.setdefault(module, code)
        if other.read_bytes() != code.read_bytes():
            text = f"the module {module} is {code} here and {other} for an arm before, and Python holds one of a name"
            study.fault(("arms", arm, "recipe"), f"{text}; rename one, or let both arms use one file")
