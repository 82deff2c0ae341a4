"""`heft tune`: a recipe from its checks to its directory.

recipe.yaml, manifest.json      as in a run; the manifest has the budget
trials.jsonl                    every finished trial; a resumed search goes on from it
metrics.jsonl                   loss, learning rate and gradient norm of every step, by trial
tune.json, table.md, tune.svg   the arms, best first
arms/<arm>.yaml, best.yaml      each arm's best, and the one that is taken, as recipes for `heft train`
study.yaml                      the arms as a study, for `heft compare`
run/                            the run of best.yaml
weights/                        trained coarse stages, while the search runs
"""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from heft.adapters.attach import check_targets
from heft.adapters.methods import edited_positions
from heft.cluster.alone import free_memory
from heft.cluster.connection import RayOptions
from heft.cluster.crew import gathered
from heft.cluster.joined import Cluster, joined
from heft.data.encode import EncodedExample
from heft.data.rows import dated, read_data
from heft.edits.positions import Positions, parse_positions
from heft.errors import HeftError
from heft.models.load import Base, load_base
from heft.recipe.defaults import Facts, with_defaults
from heft.recipe.files import dump_recipe, load_recipe, resolved, rows_in_memory, with_rows_as_files
from heft.recipe.recipe import Recipe, Stage
from heft.recipe.training import require_trained_rows
from heft.run.begun import is_begun, model_begun_with, require_same_search
from heft.run.directory import RunDirectory
from heft.run.replace import remove_run
from heft.run.train import Run, run_manifest, train
from heft.runtime import distributed
from heft.runtime.reporter import Reporter
from heft.storage.locks import locked
from heft.tune.arms import STAGE_NAMES, Search
from heft.tune.bench import Bench
from heft.tune.budget import Budget, in_unit, parse_budget
from heft.tune.chosen_by import chosen_by
from heft.tune.holdout import holdout_for
from heft.tune.ledger import Account, Ledger
from heft.tune.measure import weight_of
from heft.tune.member import Member, bringing_for
from heft.tune.planner import Planner
from heft.tune.prefixes import cost_of_prefixes, prefixes_for
from heft.tune.prices import Counter, Prices
from heft.tune.ready import require_places_for, require_ready
from heft.tune.recipes import arm_recipe, write_recipes
from heft.tune.repeats import chosen_of
from heft.tune.report import Findings, trials_of, write_report
from heft.tune.space import candidates, methods_of_any_rate, resolved_space, settings_of
from heft.tune.trainers import OnACrew, OnTheBench, Trainer
from heft.tune.trial import COARSE, recipe_of_stages
from heft.tune.verdict import compared_rows, results_of
from heft.tune.weights import WeightFiles


class BudgetTooSmall(HeftError):
    """The budget pays for no trial, so nothing is kept of the search."""


@dataclass(frozen=True)
class Tuned:
    """A search.

    Attributes:
        directory: where it is.
        findings: what came of it.
        best: the recipe that is taken.
        run: its run; None where none was asked for, or the search was interrupted.
        interrupted: whether it ended before its budget was spent.
    """

    directory: Path
    findings: Findings
    best: Recipe
    run: Run | None
    interrupted: bool = False


def tune(
    recipe: Recipe | str | Path,
    budget: Budget | str,
    reporter: Reporter | None = None,
    resume: bool = False,
    overwrite: bool = False,
    runs_best: bool = True,
    on_ray: RayOptions | None = None,
) -> Tuned:
    """Search within a budget, compare the arms, and train and evaluate the best recipe.

    Args:
        recipe: a recipe, or the path of one; its stages are templates (heft.recipe.tune).
        budget: what the search may spend, such as "30m"; the run of the best recipe comes on top.
        reporter: hears what happens; None for no one.
        resume: go on from the trials that are finished in the directory.
        overwrite: replace what is in the directory, once everything has been checked.
        runs_best: whether the best recipe is trained on all rows and evaluated at the end.
        on_ray: where the trials of a round are trained at once; None for one after the other in this process. Which
            trials there are and what comes of them is the same.

    Raises:
        HeftError: something in the recipe, its data or its model is wrong; the budget does not pay for a trial; or
            every trial diverged.
        KeyboardInterrupt: the search was interrupted before any trial was finished.
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
    budget, reporter = parse_budget(budget) if isinstance(budget, str) else budget, reporter or Reporter()
    require_ready(recipe, budget, resume, overwrite)
    require_places_for(budget, on_ray)
    if distributed.count() > 1:
        raise HeftError("a search runs in one process; start it without torchrun or accelerate launch")
    goes_on = resume and is_begun(recipe.output_dir)
    try:
        with ExitStack() as held:
            with nullcontext() if on_ray is None else joined(on_ray, reporter, "trial") as cluster:
                found = _tuned(recipe, budget, reporter, goes_on, overwrite, cluster, held)
            if found.interrupted or not runs_best:
                return found
            free_memory()  # of the search's base, before the run loads its own
            return _with_run(found, reporter)
    except BudgetTooSmall:
        if not goes_on:
            remove_run(recipe.output_dir)
        raise


def _tuned(
    recipe: Recipe,
    budget: Budget,
    reporter: Reporter,
    begun: bool,
    overwrite: bool,
    cluster: Cluster | None,
    held: ExitStack,
) -> Tuned:
    """The search, without the run of the best; its directory is locked until `held` ends."""
    path = recipe.output_dir
    recipe = require_same_search(recipe, budget.text) if begun else recipe
    recipe = resolved(dated(recipe, reporter))
    model = model_begun_with(path, recipe.model) if begun else recipe.model
    reporter.note(f"loading {model.name}")
    base = load_base(model)
    data = read_data(recipe, reporter, _positions(recipe))
    parameters = base.model.num_parameters()
    recipe = with_defaults(recipe, Facts(len(data.train), parameters))
    shortest = min(len(row.prompt) for row in [*data.train, *data.eval])
    searched = resolved_space(recipe, parameters, shortest)
    _require_places(searched, base)
    share = holdout_for(settings_of(recipe), len(data.train))
    require_trained_rows("tune.holdout", share, len(data.train))
    _require_counted(searched, base, data.train)
    if overwrite:
        remove_run(path)
    directory, manifest = RunDirectory(path), run_manifest(recipe, base, data) | {"tune": {"budget": budget.text}}
    held.enter_context(locked(path, "search"))
    if begun:
        others = directory.resume(manifest)
        if others:
            reporter.warn(f"begun with {others}: trials may differ in their last bits from those before")
    else:
        directory.create(dump_recipe(with_rows_as_files(recipe)), manifest, rows_in_memory(recipe))
    with ExitStack() as closing:
        search = _search(searched, budget, base, data.train, directory, reporter, share, closing)
        search.planner.methods_of_any_rate = methods_of_any_rate(recipe)
        with _trainer(search.planner.bench, cluster) as search.planner.trainer:
            return _searched(search, budget)


@contextmanager
def _trainer(bench: Bench, cluster: Cluster | None) -> Iterator[Trainer]:
    """Who trains the trials of the search's rounds."""
    if cluster is None:
        yield OnTheBench(bench)
        return
    bringing = bringing_for(bench, cluster.need)
    rows = cluster.ray.put((list(bench.rows),))
    with gathered(cluster, Member, bringing, [rows]) as crew:
        yield OnACrew(bench, crew, cluster.ray.put)


def _positions(recipe: Recipe) -> list[Positions]:
    """What a person asks trials to act on, so that prompts are cut alike for all; the defaults are last tokens only."""
    given = {
        str(text): None
        for each in (settings_of(recipe).lora, settings_of(recipe).reft)
        for text in each.get("positions", ())
    }
    own = {repr(each): each for each in edited_positions(recipe)}
    return [*own.values(), *(parse_positions(text) for text in given)]


def _require_places(recipe: Recipe, base: Base) -> None:
    """Every candidate's adapters have a place in the model; each distinct shape is looked at once."""
    seen = set()
    for _, stage in _tried(recipe, base):  # without what is about another stage
        looks = stage.model_dump_json(exclude={"learning_rate", "reft_learning_rate"})
        if looks not in seen:
            seen.add(looks)
            check_targets(base.model, recipe_of_stages(recipe, {"s": stage}), base.tokenizer)


def _require_counted(recipe: Recipe, base: Base, rows: Sequence[EncodedExample]) -> None:
    """What trials cost can be counted in the model."""
    name, stage = _tried(recipe, base)[0]
    Counter(recipe, rows, settings_of(recipe).tokens_per_pass).alone({}, name, stage)


def _searched(search: Search, budget: Budget) -> Tuned:
    """Everything but the run of the best; what is there where Ctrl-C ends the search."""
    planner, bench, interrupted = search.planner, search.planner.bench, False
    path, each = bench.directory.path, in_unit(next(iter(search.accounts.values())).amount, planner.prices.unit)
    measured = f"{len(bench.validation_rows):,} of {len(bench.rows):,} training rows"
    bench.reporter.note(f"{', '.join(search.accounts)}: {each} each; trials are measured on {measured}")
    try:
        _take_turns(search)
    except KeyboardInterrupt:
        if not any(chosen_of(trials_of(account)) for account in search.accounts.values()):
            raise
        interrupted = True
    findings = _findings(search, budget, finished=not interrupted)
    write_report(path, findings)
    more, winner = len(bench.rows) / len(bench.trained_rows), findings.winner
    write_recipes(path, planner.recipe, findings, more)
    if not interrupted:
        shutil.rmtree(bench.weights.folder, ignore_errors=True)
    best = arm_recipe(planner.recipe, winner.arm, winner.best, more)
    return Tuned(path, findings, best, None, interrupted)


def _with_run(found: Tuned, reporter: Reporter) -> Tuned:
    """The best recipe trained on all training rows, and evaluated, as `heft train` does."""
    reporter.note(f"training {found.findings.winner.arm} on all training rows ({found.directory / 'best.yaml'})")
    best = found.best.model_copy(update={"output": (found.directory / "run").as_posix()})
    return replace(found, run=train(best, reporter, resume=True))


def _search(
    recipe: Recipe,
    budget: Budget,
    base: Base,
    rows: Sequence[EncodedExample],
    directory: RunDirectory,
    reporter: Reporter,
    share: float,
    closing: ExitStack,
) -> Search:
    """All that the arms need, with their accounts; kept prefixes go when `closing` ends."""
    settings = settings_of(recipe)
    ledger = Ledger.read(directory.path / "trials.jsonl")
    counter = Counter(recipe, rows, settings.tokens_per_pass)
    unit = "seconds" if budget.kind == "seconds" else "flops"
    amount = budget.amount * (_epoch_of_lora(recipe, base, counter) if budget.kind == "epochs" else 1.0)
    prefixes = prefixes_for(base, _tried(recipe, base), counter, ledger, amount, unit)
    if prefixes is not None:
        closing.callback(prefixes.base.close)
    counter.keeps_prefixes = prefixes is not None
    weights = WeightFiles(directory.path / "weights")
    bench = Bench(recipe, base, rows, share, counter, directory, reporter, settings.tokens_per_pass, weights, prefixes)
    prices = Prices(unit, counter, ledger, settings.most_epochs)
    accounts = {arm: Account(arm, 0.0, unit, ledger, chosen_by(rows)) for arm in settings.arms}
    planner = Planner(recipe, settings, bench, ledger, prices, OnTheBench(bench))
    search = Search(planner, accounts)
    if unit == "seconds":
        ledger.decided("calibration", search.calibrate)
    amount -= _spent_before(ledger)
    if amount <= 0:
        raise BudgetTooSmall(f"a budget of {budget.text} is spent by short trials that measure speeds; give more time")
    for account in accounts.values():
        account.amount = amount / len(accounts)
    return search


def _epoch_of_lora(recipe: Recipe, base: Base, counter: Counter) -> float:
    """FLOPs of a pass of plain LoRA over all rows, every token computed."""
    whole = {"positions": "all", "holdout": 0.0, "steps": 1, "epochs": None}
    stage = candidates(recipe, "lora", base.model.num_parameters())[0].stage.model_copy(update=whole)
    return counter.alone({}, COARSE, stage).plain_flops(1.0)


def _tried(recipe: Recipe, base: Base) -> list[tuple[str, Stage]]:
    """Every candidate, with the name that its stage has where it is alone."""
    methods = dict.fromkeys(part for arm in settings_of(recipe).arms for part in arm.split("+"))
    parameters = base.model.num_parameters()
    return [(STAGE_NAMES[each], found.stage) for each in methods for found in candidates(recipe, each, parameters)]


def _spent_before(ledger: Ledger) -> float:
    """What was spent before the arms began."""
    return ledger.decisions.get("calibration", 0.0) + cost_of_prefixes(ledger)


def _take_turns(search: Search) -> None:
    """Run the arms' pieces, always one of the arm that has spent least."""
    going: dict[str, Iterator[None]] = {arm: search.arm(arm) for arm in search.accounts}
    ledger = search.planner.ledger
    while going:
        arm = min(going, key=lambda name: search.accounts[name].spent)
        started, before = time.perf_counter(), len(ledger.outcomes)
        try:
            next(going[arm])
        except StopIteration:
            del going[arm]
        except KeyboardInterrupt:
            if search.planner.prices.unit == "seconds":
                done = list(ledger.outcomes.values())[before:]
                lost = time.perf_counter() - started - sum(outcome.seconds for outcome in done)
                ledger.lose(arm, max(0.0, lost))
            raise
    if not any(chosen_of(trials_of(account)) for account in search.accounts.values()):
        raise _nothing(search)


def _nothing(search: Search) -> HeftError:
    """Why there is no trial to take."""
    tried = [outcome for account in search.accounts.values() for outcome in account.used.values()]
    if tried:
        return HeftError(
            "every trial diverged (losses are in metrics.jsonl); give lower learning rates in tune.lora and tune.reft"
        )
    each = in_unit(next(iter(search.accounts.values())).amount, search.planner.prices.unit)
    arms = len(search.accounts)
    return BudgetTooSmall(f"the budget is too small: {each} for each of {arms} arms pay for no trial; give more")


def _findings(search: Search, budget: Budget, finished: bool) -> Findings:
    trials = {arm: trials_of(account) for arm, account in search.accounts.items()}
    bests = {arm: best for arm, found in trials.items() if (best := chosen_of(found))}
    planner = search.planner
    bench = planner.bench
    trainings = max(len(best.seed_losses) for best in bests.values())
    rows = [row for number in range(max(1, trainings)) for row in bench.of_repeat(number).validation_rows]
    texts: dict[str | int, int] = {}
    groups = [texts.setdefault(row.example.group or id(row), len(texts)) for row in rows]
    costs = {arm: planner.prices.of_whole(best) for arm, best in bests.items()}
    return Findings(
        name=planner.recipe.name,
        budget=budget.text,
        unit=planner.prices.unit,
        chosen_by=chosen_by(bench.rows),
        results=results_of(bests, costs, list(map(weight_of, rows)), groups, trials),
        accounts=search.accounts,
        offers=search.offers,
        validation_rows=len(bench.validation_rows),
        compared_rows=compared_rows(bests.values()),
        finished=finished,
        calibration=_spent_before(planner.ledger),
    )
