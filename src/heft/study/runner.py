"""A study from its checks to its comparison: every arm with every seed, one after the other, in this process."""

import ctypes
import gc
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from heft.compare.comparison import compare
from heft.compare.inputs import read_inputs
from heft.compare.results import Comparison
from heft.compare.table import markdown
from heft.errors import HeftError
from heft.recipe.recipe import Recipe
from heft.run.train import train
from heft.runtime import distributed
from heft.runtime.reporter import Reporter
from heft.storage.atomic import to_json, write_text
from heft.storage.locks import locked
from heft.study.budgets import Budgets, in_words, of_length, require_some
from heft.study.directory import StudyDirectory
from heft.study.files import Study, load_study


@dataclass(frozen=True)
class StudyResult:
    """A study whose runs have all been tried.

    Attributes:
        directory: where it is.
        comparison: of the arms that have a finished run.
        failed: what went wrong, by arm and seed.
        notes: the same and what follows from it, in sentences.
    """

    directory: Path
    comparison: Comparison
    failed: dict[tuple[str, int], str]
    notes: list[str]


def run_study(study: Study | str | Path, reporter: Reporter | None = None) -> StudyResult:
    """Run what is not finished yet, then compare the arms.

    An unfinished run is resumed. One that fails is noted and not fatal, and is tried again at the next call; so is an
    arm whose budget cannot be computed. Seeds are the outer loop, so that an interrupted study has whole comparisons.

    Args:
        study: a study, or the path of one.
        reporter: gets notes and progress; None for none.

    Raises:
        HeftError: the study cannot be run where it should be, or no budget can be computed (nothing has been changed);
            or another process holds its directory; or every run failed.
    """
    study = load_study(study) if isinstance(study, str | Path) else study
    reporter = reporter or Reporter()
    if distributed.count() > 1:
        raise HeftError("a study runs in one process; start it without torchrun or accelerate launch")
    directory = StudyDirectory(study)
    begun = directory.is_begun
    with ExitStack() as until_the_end:
        if begun:
            until_the_end.enter_context(locked(directory.path, "study"))
        recipes = _apply_budgets(directory, reporter)
        if not begun:  # made only now, so that a study that cannot be run leaves nothing behind
            until_the_end.enter_context(locked(directory.path, "study"))
        _run_all(directory, recipes, reporter)
        return _compare(directory)


def _run_all(directory: StudyDirectory, recipes: dict[str, Recipe], reporter: Reporter) -> None:
    """Run what is not finished yet."""
    _free_memory()
    study = directory.study
    wanted = {
        (arm, seed): study.run_of(arm, recipes[arm], seed)
        for seed in study.settings.seeds
        for arm in recipes
        if arm not in directory.unplanned
    }
    left = [each for each, recipe in wanted.items() if not directory.finished(recipe)]
    if len(left) < len(wanted):
        reporter.note(f"{len(wanted) - len(left)} of {len(wanted)} runs are finished already")
    directory.write(recipes)
    runs = [recipe.output_dir for recipe in wanted.values()]
    for number, (arm, seed) in enumerate(left, start=1):
        reporter.note(f"run {number} of {len(left)}: {arm}, seed {seed}")
        error = _try_run(wanted[arm, seed], directory, reporter, runs)
        if error is not None:
            directory.failed[arm, seed] = error
            reporter.warn(f"{arm}, seed {seed} failed: {error}")
        directory.write(recipes)


def _apply_budgets(directory: StudyDirectory, reporter: Reporter) -> dict[str, Recipe]:
    """Every arm's recipe at the length of its budget; an arm whose budget cannot be computed is given up."""
    study, recipes, failed = directory.study, {}, {}
    budgets = Budgets(study, directory.known_budgets(), reporter)
    for arm, recipe in study.recipes.items():
        recipes[arm] = recipe
        try:
            budget = budgets.resolve(arm)
        except Exception as error:  # one arm's error need not stop the others
            failed[arm] = in_words(error)
            directory.give_up(arm, failed[arm])
            reporter.warn(f"{arm} cannot be run: {failed[arm]}")
            continue
        if budget is not None:
            recipes[arm], directory.budgets[arm] = of_length(recipe, budget.steps), budget
    require_some(study, failed)
    return recipes


def _try_run(recipe: Recipe, directory: StudyDirectory, reporter: Reporter, runs: Sequence[Path]) -> str | None:
    """Run a recipe, one of all `runs`, and free its memory; the error, if there is one."""
    if directory.clear(recipe):
        reporter.note(f"{recipe.output} was begun with another recipe and not finished; it is removed and run again")
    error = None
    try:
        train(recipe, reporter, resume=True, base_from=runs)
    except Exception as caught:  # what stops one run, such as memory, need not stop the others
        error = in_words(caught)
    _free_memory()
    return error


def _free_memory() -> None:
    """Free the memory of the last run, so that each run's peak is its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _compare(directory: StudyDirectory) -> StudyResult:
    try:
        found = read_inputs([directory.path])
    except HeftError as error:
        errors = "".join(f"\n{arm}, seed {seed}: {reason}" for (arm, seed), reason in directory.failed.items())
        raise HeftError(f"{error}{errors}") from None
    comparison = compare(found.arms, found.reference)
    write_text(directory.path / "comparison.json", to_json(comparison.to_dict()))
    write_text(directory.path / "comparison.md", markdown(comparison, found.notes))
    return StudyResult(directory.path, comparison, directory.failed, found.notes)
