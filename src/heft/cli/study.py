"""`heft compare STUDY.yaml`: run a study, or with --dry-run estimate what it costs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heft.cli.show import ConsoleReporter, explain_interrupts, table
from heft.study.files import Study, load_study
from heft.text.command import command
from heft.text.units import in_flops, in_time

if TYPE_CHECKING:
    from rich.table import Table

    from heft.cluster.connection import RayOptions
    from heft.costs.stage import StageCosts
    from heft.study.budgets import ResolvedBudget
    from heft.study.runner import StudyResult


def run_study(
    path: Path,
    reporter: ConsoleReporter,
    overrides: Sequence[str],
    output: Path | None,
    dry_run: bool,
    on_ray: "RayOptions | None",
) -> "StudyResult | None":
    """Run a study, in this process or on Ray; a dry run prints its costs, trains and writes nothing, and gives None."""
    study = load_study(path, overrides, output)
    reporter.note("importing torch and transformers")
    from heft.models.load import quiet

    quiet()
    if dry_run:
        _show_plans(study, reporter)
        return None
    from heft.cluster.on_ray import OnRay
    from heft.study.runner import run_study as run_all

    executor = None if on_ray is None else OnRay(on_ray)
    with explain_interrupts(study.directory, reporter, resume=command(*sys.argv[1:])):
        return run_all(study, reporter, executor)


def _show_plans(study: Study, reporter: ConsoleReporter) -> None:
    from heft.study.budgets import Budgets, in_words, of_length, reasons, require_some

    budgets, counted, notes, failed = Budgets(study, {}, reporter), {}, [], {}
    reporter.note("counting what each arm costs")
    for arm, recipe in study.recipes.items():
        try:
            budget = None if budgets.needs_measuring(arm) else budgets.resolve(arm)
            counted[arm] = budgets.costing.stages(recipe if budget is None else of_length(recipe, budget.steps))
        except Exception as error:  # one arm's error need not stop the others
            failed[arm] = in_words(error)
            continue
        if budgets.needs_measuring(arm):
            notes.append(f"{arm}: seconds are measured when the study is run; shown as its recipe has it")
        elif budget is not None:
            notes.append(_budget_words(arm, budget))
    require_some(study, failed)
    reporter.console.print(_table(study, counted))
    for note in [*notes, *(f"cannot be run: {reason}" for reason in reasons(failed))]:
        reporter.note(note)
    reporter.note(_sum_words(study, counted))


def _table(study: Study, counted: "dict[str, list[StageCosts]]") -> "Table":
    """One line per stage of each arm."""
    rows = []
    for arm, stages in counted.items():
        for number, (name, stage) in enumerate(zip(study.recipes[arm].stages, stages, strict=True)):
            flops = (stage.flops(stage.planned_passes), stage.plain_flops(stage.planned_passes))
            counts = (f"{stage.planned_steps:,}", f"{stage.shape.trainable_parameters:,}")
            rows.append(("" if number else arm, name, *counts, *map(in_flops, flops)))
    figures = ("steps", "trains", "FLOPs", "no reuse")
    return table(f"study {study.settings.name}", ("arm", "stage"), figures, rows)


def _sum_words(study: Study, counted: "dict[str, list[StageCosts]]") -> str:
    seeds = study.settings.seeds
    stages = [stage for own in counted.values() for stage in own]
    spent = len(seeds) * sum(stage.flops(stage.planned_passes) for stage in stages)
    whole = len(seeds) * sum(stage.plain_flops(stage.planned_passes) for stage in stages)
    arms = "1 arm" if len(counted) == 1 else f"{len(counted)} arms"
    return (
        f"{arms} with seeds {', '.join(map(str, seeds))}: {len(counted) * len(seeds)} runs, {in_flops(spent)} of"
        f" training ({in_flops(whole)} with nothing reused), in {study.directory}"
    )


def _budget_words(arm: str, budget: "ResolvedBudget") -> str:
    shown = {"seconds": in_time, "steps": lambda amount: f"{amount:,.0f} steps"}.get(budget.kind, in_flops)
    off = budget.reached / budget.amount - 1
    spent = " to spend" if budget.kind == "spent_flops" else ""
    reached = f"{shown(budget.reached)} in whole steps ({off:+.2%})"
    return f"{arm}: budget {shown(budget.amount)}{spent}, comes to {reached}"
