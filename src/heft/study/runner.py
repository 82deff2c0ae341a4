"""A study from its checks to its comparison: every arm with every seed, one after the other, in this process."""

import ctypes
import gc
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from heft import processes
from heft.compare.comparison import Comparison, compare, read_study
from heft.compare.table import markdown
from heft.errors import HeftError
from heft.recipe import Recipe
from heft.reporter import Reporter
from heft.run_dir import to_json, write_text
from heft.runner import train
from heft.study.budgets import Budgets
from heft.study.directory import StudyDirectory
from heft.study.files import Study, load_study


@dataclass(frozen=True)
class StudyResult:
    """A study whose runs have all been tried.

    Attributes:
        directory: where it is.
        comparison: of the arms that have a finished run.
        failed: what went wrong, by arm and seed.
    """

    directory: Path
    comparison: Comparison
    failed: dict[tuple[str, int], str]


def run_study(study: Study | str | Path, reporter: Reporter | None = None) -> StudyResult:
    """Run what is not finished yet, then compare the arms.

    A run that was begun and not finished is removed and run again. One that fails is noted and not fatal, and is tried
    again at the next call. Seeds are the outer loop, so that a study that is cut short has whole comparisons.

    Args:
        study: a study, or the path of one.
        reporter: is told what happens; None for nobody.

    Raises:
        HeftError: the study cannot be run where it should be (nothing has been changed), or every run failed.
    """
    study = load_study(study) if isinstance(study, str | Path) else study
    reporter = reporter or Reporter()
    if processes.count() > 1:
        raise HeftError("a study runs in one process; start it without torchrun or accelerate launch")
    directory = StudyDirectory(study)
    budgets = Budgets(study, directory.known_grants(), reporter)
    recipes = {}
    for arm, recipe in study.recipes.items():
        grant = budgets.grant(arm)
        recipes[arm] = recipe if grant is None else grant.apply(recipe)
        if grant is not None:
            directory.grants[arm] = grant.to_dict()
    del budgets
    _let_go()
    wanted = [(arm, seed) for seed in study.settings.seeds for arm in recipes]
    left = [each for each in wanted if not directory.finished(study.run_of(each[0], recipes[each[0]], each[1]))]
    if len(left) < len(wanted):
        reporter.note(f"{len(wanted) - len(left)} of {len(wanted)} runs are finished already")
    directory.write(recipes)
    for number, (arm, seed) in enumerate(left, start=1):
        reporter.note(f"run {number} of {len(left)}: {arm}, seed {seed}")
        error = _try_run(study.run_of(arm, recipes[arm], seed), directory, reporter)
        if error is not None:
            directory.failed[arm, seed] = error
            reporter.note(f"{arm}, seed {seed} failed: {error}")
        directory.write(recipes)
    return _compare(directory, study.settings.reference)


def _try_run(recipe: Recipe, directory: StudyDirectory, reporter: Reporter) -> str | None:
    """Run a recipe and let go of all it held; what went wrong, if anything did."""
    if directory.clear(recipe):
        reporter.note(f"{recipe.output} was not finished; it is removed and run again")
    error = None
    try:
        train(recipe, reporter)
    except Exception as caught:  # whatever stops one run, such as memory, need not stop the others
        error = str(caught) if isinstance(caught, HeftError) else f"{type(caught).__name__}: {caught}"
    _let_go()
    return error


def _let_go() -> None:
    """Give back what the last run took, so that runs do not add up and each one's peak is its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _compare(directory: StudyDirectory, reference: str | None) -> StudyResult:
    errors = "\n".join(f"{arm}, seed {seed}: {error}" for (arm, seed), error in directory.failed.items())
    try:
        arms, _ = read_study(directory.path)
    except HeftError as error:
        raise HeftError(f"{error}\n{errors}" if errors else str(error)) from None
    has_reference = any(arm.name == reference for arm in arms)
    comparison = compare(arms, reference if has_reference else None)
    write_text(directory.path / "comparison.json", to_json(comparison.to_dict()))
    write_text(directory.path / "comparison.md", markdown(comparison))
    return StudyResult(directory.path, comparison, directory.failed)
