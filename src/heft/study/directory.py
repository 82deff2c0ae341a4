"""A study's directory:

study.yaml        the study, every default written out
study.json        its arms, which runs are finished, which failed and why, resolved budgets
<arm>/seed-<n>/   a run's directory (heft.run.directory)
comparison.json   the arms against each other (heft.compare)
comparison.md
"""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import BaseModel

from heft.compare.arms import STUDY_FORMAT
from heft.errors import HeftError
from heft.recipe.files import difference, load_recipe
from heft.recipe.recipe import Recipe
from heft.results.summary import read_summaries
from heft.run.begun import is_begun, is_finished, require_free
from heft.settings.words import checked
from heft.storage.atomic import to_json, write_text
from heft.storage.reading import is_file, read_json
from heft.study.budgets import ResolvedBudget
from heft.study.files import Study, dump_study


class _Written(BaseModel):
    """What is read of study.json."""

    name: str | None = None
    budget: dict[str, ResolvedBudget] = {}


@dataclass
class StudyDirectory:
    """What a study has done so far, on disk after every change.

    Attributes:
        study: whose directory it is.
        budgets: the resolved budget of each arm that has one.
        failed: what went wrong, by arm and seed.
        unplanned: arms that cannot be run, since their budget cannot be computed; what is there of them is from an
            earlier budget or recipe, and not counted.
    """

    study: Study
    budgets: dict[str, ResolvedBudget] = field(default_factory=dict)
    failed: dict[tuple[str, int], str] = field(default_factory=dict)
    unplanned: set[str] = field(default_factory=set)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.study.directory

    @property
    def is_begun(self) -> bool:
        """Whether an earlier call has written there."""
        return (self.path / "study.yaml").is_file()

    def known_budgets(self) -> dict[str, ResolvedBudget]:
        """The budgets that an earlier call resolved, from study.json; none where there is no such file.

        Raises:
            HeftError: the directory is not a study's or another study's, or its study.json cannot be read.
        """
        if not self.is_begun:
            require_free(self.path)
        file, own = self.path / "study.json", self.study.settings.name
        written = checked(file, read_json(file), _Written) if is_file(file) else _Written()
        if written.name not in (None, own):
            raise HeftError(f"{self.path} is of the study {written.name!r}; give {own!r} another with --output DIR")
        return written.budget

    def finished(self, recipe: Recipe) -> bool:
        """Whether a run has all its stages.

        Raises:
            HeftError: what is there is a finished run of another recipe.
        """
        path = recipe.output_dir
        if not _is_whole(path):
            return False
        unlike = difference(load_recipe(path / "recipe.yaml"), recipe)
        if unlike is not None:
            raise HeftError(
                f"{path} holds a finished run of another recipe ({unlike}); give the study another name or --output, or"
                " remove that run"
            )
        return True

    def clear(self, recipe: Recipe) -> bool:
        """Remove what an unfinished run of another recipe left; whether there was any.

        An unfinished run of the same recipe stays, to be resumed. Nothing outside the study is removed.
        """
        path = recipe.output_dir
        if not path.is_dir():
            return False
        if not path.resolve().is_relative_to(self.path.resolve()) or path.is_symlink():
            raise HeftError(f"{path} is a link that leads out of the study; remove it")
        if is_begun(path) and not is_finished(path) and _is_run_of(path, recipe):
            return False
        shutil.rmtree(path)
        return True

    def give_up(self, arm: str, error: str) -> None:
        """Note an arm as failed with all seeds before any was run."""
        self.unplanned.add(arm)
        self.failed |= {(arm, seed): error for seed in self.study.settings.seeds}

    def write(self, recipes: dict[str, Recipe]) -> None:
        """Write study.yaml and study.json, each whole or not at all; `recipes` are the arms', budgets applied."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "study.yaml", dump_study(self.study))
        settings = self.study.settings
        arms = [self._arm(name, recipe) for name, recipe in recipes.items()]
        if settings.base:
            base = {"name": "base", "label": "the model before any stage", "stage": "base"}
            arms.append({**base, "runs": next((arm["runs"] for arm in arms if arm["runs"]), []), "failed": []})
        budgets = {arm: asdict(budget) for arm, budget in self.budgets.items()}
        about = {"format": STUDY_FORMAT, **settings.model_dump(include={"name", "reference", "seeds"})}
        write_text(self.path / "study.json", to_json({**about, "arms": arms, "budget": budgets}))

    def _arm(self, name: str, recipe: Recipe) -> dict:
        seeds = [] if name in self.unplanned else self.study.settings.seeds
        done = [seed for seed in seeds if _is_whole(self.study.run_of(name, recipe, seed).output_dir)]
        return {
            "name": name,
            "label": self.study.settings.arms[name].label or name,
            "runs": [f"{name}/seed-{seed}" for seed in done],
            "failed": [
                {"seed": seed, "error": error} for (arm, seed), error in self.failed.items() if arm == name
            ],
        }  # fmt: skip


def _is_run_of(path: Path, recipe: Recipe) -> bool:
    try:
        return difference(load_recipe(path / "recipe.yaml"), recipe) is None
    except HeftError:
        return False


def _is_whole(path: Path) -> bool:
    """Whether a run is finished, and its summary has all stages of its recipe."""
    try:
        names = [summary.name for summary in read_summaries(path)]
        return is_finished(path) and names == ["base", *load_recipe(path / "recipe.yaml").stages]
    except HeftError:
        return False
