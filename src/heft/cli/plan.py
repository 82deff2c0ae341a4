"""`heft plan`: what a recipe will cost, as tables or as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from heft.cli.show import ConsoleReporter
from heft.recipe_io import load_recipe
from heft.reporter import Reporter
from heft.units import in_bytes, in_flops, in_time

if TYPE_CHECKING:
    from heft.plan.planner import Plan


def run_plan(path: Path, overrides: Sequence[str], probe: bool, as_json: bool) -> None:
    """Plan a recipe and print what was found; with JSON, nothing else goes to standard output."""
    recipe = load_recipe(path, overrides)
    reporter = ConsoleReporter()
    from heft.models import quiet
    from heft.plan.planner import make_plan

    quiet()
    plan = make_plan(recipe, Reporter() if as_json else reporter, probe_seconds=10.0 if probe else 0.0)
    if as_json:
        print(json.dumps(plan.to_dict(), indent=2, allow_nan=False))
        return
    reporter.note(
        f"{plan.model} on {plan.device}: {plan.parameters:,} parameters, {in_bytes(plan.weight_bytes)} of weights"
    )
    for what, data in (("train", plan.train), ("eval", plan.eval)):
        reporter.note(
            f"{what}: {data.rows:,} rows, {data.tokens:,} tokens (mean {data.mean_tokens:.0f}, longest {data.longest}),"
            f" {data.cut:,} prompts cut"
        )
    reporter.console.print(stages_table(plan))
    for line in notes(plan):
        reporter.note(line)


def stages_table(plan: "Plan") -> Table:
    """A line a stage."""
    table = Table(title="plan", title_justify="left")
    table.add_column("stage")
    for heading in ("steps", "trains", "FLOPs", "no reuse", "memory", "time", "eval"):
        table.add_column(heading, justify="right")
    for stage in plan.stages:
        table.add_row(
            stage.name,
            f"{stage.steps:,}",
            f"{stage.trainable_parameters:,}",
            in_flops(stage.flops),
            in_flops(stage.plain_flops) if stage.prefix else "–",
            in_bytes(stage.peak_bytes),
            in_time(stage.seconds),
            in_time(stage.evaluation_seconds) if stage.evaluation_seconds else in_flops(stage.evaluation_flops),
        )
    return table


def notes(plan: "Plan") -> list[str]:
    """What does not fit into the table."""
    lines = []
    for stage in plan.stages:
        if stage.prefix is not None:
            kept = "computed at every step" if stage.prefix.store == "off" else f"kept in {stage.prefix.store}"
            lines.append(f"{stage.name}: {stage.prefix.tokens:,} prefix tokens, {in_bytes(stage.prefix.bytes)}, {kept}")
    lines.append(
        f"evaluation of the base: {in_flops(plan.base_evaluation_flops)}"
        f" ({in_flops(plan.plain_evaluation_flops)} with nothing shared)"
    )
    if plan.flops_per_second is not None:
        lines.append(
            f"times are at {in_flops(plan.flops_per_second)}/s, this machine's matrix rate: a run takes longer"
        )
    return lines
