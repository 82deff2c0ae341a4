"""`heft compare STUDY.yaml`: a study's runs and their comparison, or with --dry-run what they would be."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from heft.cli.show import ConsoleReporter
from heft.study.files import Study, load_study
from heft.units import in_flops, in_time

if TYPE_CHECKING:
    from heft.plan.planner import Plan
    from heft.study.budgets import Grant


def run_study(path: Path, overrides: Sequence[str] = (), output: Path | None = None, dry_run: bool = False) -> None:
    """Run a study and print what it found; a dry run trains nothing and writes nothing."""
    study = load_study(path, overrides, output=str(output) if output else None)
    reporter = ConsoleReporter()
    reporter.note("importing torch and transformers")
    from heft.models import quiet

    quiet()
    if dry_run:
        _show_plans(study, reporter)
        return
    from heft.cli.compare import show
    from heft.study.runner import run_study as run_all

    try:
        result = run_all(study, reporter)
    except KeyboardInterrupt:
        reporter.note("interrupted; finished runs stay, and the same command goes on with the others")
        raise
    show(result.comparison, reporter)
    for (arm, seed), error in result.failed.items():
        reporter.note(f"failed: {arm}, seed {seed}: {error}")
    reporter.note(f"study: {result.directory}   table: {result.directory / 'comparison.md'}")


def _show_plans(study: Study, reporter: ConsoleReporter) -> None:
    from heft.plan.planner import make_plan
    from heft.study.budgets import Budgets

    budgets, plans, grants, notes = Budgets(study, {}, reporter), {}, {}, []
    for arm, recipe in study.recipes.items():
        if budgets.needs_measuring(arm):
            plans[arm] = budgets.plan(arm)
            notes.append(f"{arm}: seconds are measured when the study is run; shown as its recipe has it")
            continue
        grants[arm] = budgets.grant(arm)
        plans[arm] = budgets.plan(arm)
        if grants[arm] is not None:
            plans[arm] = make_plan(grants[arm].apply(recipe), probe_seconds=0)
            notes.append(_budget_words(arm, grants[arm]))
    reporter.console.print(plans_table(study, plans))
    for note in notes:
        reporter.note(note)
    seeds = study.settings.seeds
    whole = len(seeds) * sum(stage.plain_flops for plan in plans.values() for stage in plan.stages)
    spent = len(seeds) * sum(stage.flops for plan in plans.values() for stage in plan.stages)
    reporter.note(
        f"{len(plans)} arms with seeds {', '.join(map(str, seeds))}: {len(plans) * len(seeds)} runs,"
        f" {in_flops(spent)} of training ({in_flops(whole)} with nothing reused), in {study.directory}"
    )


def plans_table(study: Study, plans: "dict[str, Plan]") -> Table:
    """A line for each stage of each arm."""
    table = Table(title=f"study {study.settings.name}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm")
    table.add_column("stage")
    for heading in ("steps", "trains", "FLOPs", "no reuse"):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm, plan in plans.items():
        for number, stage in enumerate(plan.stages):
            table.add_row(
                "" if number else arm,
                stage.name,
                f"{stage.steps:,}",
                f"{stage.trainable_parameters:,}",
                in_flops(stage.flops),
                in_flops(stage.plain_flops),
            )
    return table


def _budget_words(arm: str, grant: "Grant") -> str:
    shown = {"flops": in_flops, "seconds": in_time, "steps": lambda amount: f"{amount:,.0f} steps"}[grant.kind]
    off = grant.reached / grant.amount - 1
    return f"{arm}: budget {shown(grant.amount)}, comes to {shown(grant.reached)} in whole steps ({off:+.2%})"
