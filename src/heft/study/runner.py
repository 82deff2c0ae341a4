"""A study from its checks to its comparison: every arm with every seed, in this process or wherever runs are done."""

from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from heft.cluster.alone import InThisProcess
from heft.cluster.jobs import Executor, Job
from heft.compare.comparison import compare
from heft.compare.inputs import read_inputs
from heft.compare.results import Comparison
from heft.compare.table import markdown
from heft.errors import HeftError
from heft.recipe.recipe import Recipe
from heft.run.unchanged import RowsNow
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


def run_study(
    study: Study | str | Path, reporter: Reporter | None = None, executor: Executor | None = None
) -> StudyResult:
    """Run what is not finished yet, then compare the arms.

    An unfinished run is resumed. One that fails is noted and not fatal, and is tried again at the next call; so is an
    arm whose budget cannot be computed. Seeds are the outer loop, so that an interrupted study has whole comparisons.

    Args:
        study: a study, or the path of one.
        reporter: gets notes and progress; None for none.
        executor: does the runs; None for one after the other in this process.

    Raises:
        HeftError: the study cannot be run where it should be, or no budget can be computed (nothing has been changed);
            or another process holds its directory; or every run failed.
    """
    study = load_study(study) if isinstance(study, str | Path) else study
    reporter = reporter or Reporter()
    if distributed.count() > 1:
        raise HeftError("a study runs in one process; start it without torchrun or accelerate launch")
    executor = executor or InThisProcess()
    directory = StudyDirectory(study)
    begun = directory.is_begun
    with ExitStack() as until_the_end:
        until_the_end.enter_context(executor.ready(reporter))
        if begun:
            until_the_end.enter_context(locked(directory.path, "study"))
        recipes = _apply_budgets(directory, executor, reporter)
        if not begun:  # made only now, so that a study that cannot be run leaves nothing behind
            until_the_end.enter_context(locked(directory.path, "study"))
        _run_all(directory, recipes, executor, reporter)
        return _compare(directory)


def _run_all(directory: StudyDirectory, recipes: dict[str, Recipe], executor: Executor, reporter: Reporter) -> None:
    """Run what is not finished yet."""
    study = directory.study
    wanted = {
        (arm, seed): study.run_of(arm, recipes[arm], seed)
        for seed in study.settings.seeds
        for arm in recipes
        if arm not in directory.unplanned
    }
    left = {each: recipe for each, recipe in wanted.items() if not directory.finished(recipe)}
    rows = RowsNow(reporter)
    for each in wanted.keys() - left.keys():
        rows.require_unchanged(wanted[each].output_dir, wanted[each])
    if len(left) < len(wanted):
        reporter.note(f"{len(wanted) - len(left)} of {len(wanted)} runs are finished already")
    directory.write(recipes)
    runs = tuple(recipe.output_dir for recipe in wanted.values())
    keys = {f"{arm}, seed {seed}": (arm, seed) for arm, seed in left}
    jobs = [Job(name, left[key], runs) for name, key in keys.items()]
    for job in jobs:
        _clear(job.recipe, directory, reporter)
    with closing(executor.run(jobs, directory.path, reporter)) as ended:
        for job, failure in ended:
            if failure is not None:
                directory.failed[keys[job.name]] = failure.words
                reporter.warn(f"{job.name} failed: {failure.words}")
                if failure.traceback is not None:
                    reporter.note(failure.traceback)
            directory.write(recipes)


def _apply_budgets(directory: StudyDirectory, executor: Executor, reporter: Reporter) -> dict[str, Recipe]:
    """Every arm's recipe at the length of its budget; an arm whose budget cannot be computed is given up."""
    study, recipes, failed = directory.study, {}, {}
    budgets = Budgets(study, directory.known_budgets(), reporter)
    measured = [arm for arm in study.recipes if budgets.needs_measuring(arm)]
    if executor.is_elsewhere and measured:
        raise HeftError(
            f"{', '.join(measured)}: a budget in seconds is measured on this machine, and runs on Ray are done on"
            " others; give steps, flops or spent_flops, or run the study without --ray"
        )
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


def _clear(recipe: Recipe, directory: StudyDirectory, reporter: Reporter) -> None:
    if directory.clear(recipe):
        reporter.note(f"{recipe.output} was begun with another recipe and not finished; it is removed and run again")


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
