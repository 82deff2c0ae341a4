"""A study's directory:

study.yaml        the study, every default written out
study.json        its arms, which runs are finished, which failed and why, what budgets came to
<arm>/seed-<n>/   a run's directory (heft.run_dir)
comparison.json   the arms against each other (heft.compare)
comparison.md
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from heft.compare.arms import STUDY_FORMAT
from heft.compare.runs import read_json
from heft.errors import HeftError
from heft.recipe import Recipe
from heft.recipe_io import dump_recipe, load_recipe
from heft.run_dir import require_free, to_json, write_text
from heft.study.files import Study, dump_study


@dataclass
class StudyDirectory:
    """What a study has done so far, on disk after every change.

    Attributes:
        study: whose directory it is.
        grants: what each budget came to, by arm.
        failed: what went wrong, by arm and seed.
    """

    study: Study
    grants: dict[str, dict] = field(default_factory=dict)
    failed: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.study.directory

    def known_grants(self) -> dict[str, dict]:
        """What budgets came to at an earlier call.

        Raises:
            HeftError: the directory is something else than a study's.
        """
        if not (self.path / "study.yaml").is_file():
            require_free(self.path)
        file = self.path / "study.json"
        known = read_json(file).get("budget") if file.is_file() else None
        return known if isinstance(known, dict) else {}

    def finished(self, recipe: Recipe) -> bool:
        """Whether a run is there with all its stages.

        Raises:
            HeftError: what is there is a finished run of another recipe.
        """
        path = recipe.output_dir
        if not _is_whole(path):
            return False
        there = load_recipe(path / "recipe.yaml")
        if dump_recipe(_anywhere(there)) != dump_recipe(_anywhere(recipe)):
            raise HeftError(
                f"{path} holds a finished run of another recipe ({_difference(there, recipe)}); give the study another"
                " name or --output, or remove that run"
            )
        return True

    def clear(self, recipe: Recipe) -> bool:
        """Remove what an unfinished run left; whether there was anything. Never anything outside the study."""
        path = recipe.output_dir
        if not path.is_dir():
            return False
        if not path.resolve().is_relative_to(self.path.resolve()) or path.is_symlink():
            raise HeftError(f"{path} is a link that leads out of the study; remove it")
        shutil.rmtree(path)
        return True

    def write(self, recipes: dict[str, Recipe]) -> None:
        """Write study.yaml and study.json, each whole or not at all; `recipes` are the arms', budgets applied."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "study.yaml", dump_study(self.study))
        settings = self.study.settings
        arms = [self._arm(name, recipe) for name, recipe in recipes.items()]
        if settings.base:
            base = {"name": "base", "label": "the model before any stage", "stage": "base"}
            arms.append({**base, "runs": next((arm["runs"] for arm in arms if arm["runs"]), []), "failed": []})
        about = {"format": STUDY_FORMAT, "name": settings.name, "reference": settings.reference}
        write_text(self.path / "study.json", to_json({**about, "arms": arms, "budget": self.grants}))

    def _arm(self, name: str, recipe: Recipe) -> dict:
        seeds = self.study.settings.seeds
        done = [seed for seed in seeds if _is_whole(self.study.run_of(name, recipe, seed).output_dir)]
        return {
            "name": name,
            "label": self.study.settings.arms[name].label or name,
            "runs": [f"{name}/seed-{seed}" for seed in done],
            "failed": [
                {"seed": seed, "error": error} for (arm, seed), error in self.failed.items() if arm == name
            ],
        }  # fmt: skip


def _is_whole(path: Path) -> bool:
    """Whether a run's last file is there, and its summary has all stages of its recipe."""
    if not (path / "adapter" / "heft.json").is_file():
        return False
    try:
        recipe = load_recipe(path / "recipe.yaml")
        stages = json.loads((path / "summary.json").read_text(encoding="utf-8"))["stages"]
        return [stage["name"] for stage in stages] == ["base", *recipe.stages]
    except (HeftError, OSError, ValueError, KeyError, TypeError):
        return False


def _anywhere(recipe: Recipe) -> Recipe:
    """A recipe but for where it is written: a study may be moved."""
    return recipe.model_copy(update={"output": None})


def _difference(there: Recipe, wanted: Recipe) -> str:
    """The first setting in which two recipes differ, such as `stages.fine.rank: 4, not 8`."""
    one, other = (_flat(_anywhere(recipe).model_dump(mode="json")) for recipe in (there, wanted))
    key = next(key for key in [*one, *other] if one.get(key) != other.get(key))
    return f"{key}: {one.get(key)}, not {other.get(key)}"


def _flat(value: object, key: str = "") -> dict[str, object]:
    if not isinstance(value, dict):
        return {key: value}
    return {k: v for name, below in value.items() for k, v in _flat(below, f"{key}.{name}".lstrip(".")).items()}
