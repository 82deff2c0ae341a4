"""`heft plan`: what a recipe will cost, as tables or as JSON."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from heft.cli.options import AsJson, Overrides, RecipeFile
from heft.cli.plan_layers import layers_notes, layers_table
from heft.errors import HeftError
from heft.text.units import in_bytes, in_digits, in_flops, in_time

if TYPE_CHECKING:
    from rich.table import Table

    from heft.costs.figures import Plan, StagePlan, SweepPlan
    from heft.recipe.recipe import Recipe
    from heft.runtime.reporter import Reporter
    from heft.training.layer_probe import LayerProbe


def plan(
    recipe: RecipeFile,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    probe: Annotated[bool, typer.Option(help="Benchmark this machine for 10 s to estimate run time.")] = True,
    as_json: AsJson = False,
    show: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Show N training examples token by token, as the model will see them."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Plan for N processes, each on a device of its own.")
    ] = 1,
    on: Annotated[
        Literal["cpu", "cuda", "mps"] | None,
        typer.Option(help="Plan for devices of this kind, which need not be here."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="FLOP/S", help="Matrix rate of each device, such as 4e14; nothing is benchmarked then."),
    ] = None,
    probe_layers: Annotated[
        bool,
        typer.Option(help="Load the model and say at which layers and tokens an edit could move the loss."),
    ] = False,
    probe_rows: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Training rows of --probe-layers (64).")
    ] = None,
) -> None:
    """Estimate steps, FLOPs, memory and time without loading weights."""
    from heft.cli.plan_examples import drawn
    from heft.cli.show import ConsoleReporter, print_json
    from heft.recipe.files import load_recipe
    from heft.runtime.reporter import Reporter

    loaded = load_recipe(recipe, override)
    if probe_rows is not None and not probe_layers:
        raise HeftError("--probe-rows has no effect without --probe-layers; add that, or leave it out")
    if rate is not None and not 0 < rate < math.inf:
        raise HeftError(f"--rate is {rate:g}, expected FLOPs a second of one device, such as 4e14")
    reporter = ConsoleReporter()
    from heft.data.inspect import show_examples
    from heft.models.load import quiet
    from heft.plan.planner import make_plan

    quiet()
    shown = None if show is None else show_examples(loaded, show)
    if shown is not None and not as_json:  # first, so that they are there if a check ends the plan
        reporter.console.print(drawn(shown))
    listener, seconds = Reporter() if as_json else reporter, 10.0 if probe else 0.0
    found = make_plan(loaded, listener, seconds, processes, on, rate)
    layers = _probed(loaded, probe_rows, Reporter() if as_json else reporter) if probe_layers else None
    if as_json:
        values = found.to_dict() | ({} if shown is None else {"shown": shown.to_dict()})
        print_json(values | ({} if layers is None else {"layer_probe": layers.to_dict()}))
        return
    if shown is not None:
        reporter.note("")
    for line in summary(found):
        reporter.note(line)
    reporter.console.print(stages_table(found))
    for line in notes(found):
        reporter.note(line)
    if layers is not None:
        reporter.console.print(layers_table(layers))
        for line in layers_notes(layers):
            reporter.note(line)


def _probed(recipe: "Recipe", rows: int | None, reporter: "Reporter") -> "LayerProbe":
    from heft.plan.layers import probe_recipe
    from heft.training.layer_probe import ROWS

    return probe_recipe(recipe, rows or ROWS, reporter)


def summary(plan: "Plan") -> list[str]:
    """The model and the data, above the table."""
    lines = [f"{plan.model} on {plan.device}: {plan.parameters:,} parameters, {in_bytes(plan.weight_bytes)} of weights"]
    if plan.processes > 1:
        lines.append(_shared_out(plan))
    for what, data in (("train", plan.train), ("eval", plan.eval)):
        lines.append(
            f"{what}: {data.rows:,} rows, {data.tokens:,} tokens (mean {data.mean_tokens:.0f}, longest {data.longest}),"
            f" {data.cut:,} prompts cut"
        )
    return lines


def _shared_out(plan: "Plan") -> str:
    if not plan.is_sharded:
        return f"{plan.processes} processes, each with the whole model (DistributedDataParallel)"
    return (
        f"{plan.processes} processes, each with a shard of the model (FSDP2): {in_bytes(plan.device_weight_bytes)} of"
        f" weights at most on its device, {in_bytes(plan.host_weight_bytes)} in main memory"
    )


def stages_table(plan: "Plan") -> "Table":
    """One line per stage; a sweep's configurations are one line."""
    from heft.cli.show import table

    rows = []
    for stage in plan.stages:
        reused = stage.reuse.kind != "nothing"
        rows.append(_row(stage.name, stage, in_flops(stage.plain_flops) if reused else "–"))
    if plan.sweep is not None:
        sweep = plan.sweep
        plain = in_flops(sweep.one_plain_flops * sweep.configurations)
        rows.append(_row(f"{sweep.stage} × {sweep.configurations}", sweep, plain))
    return table("plan", ["stage"], ("steps", "trains", "FLOPs", "no reuse", "memory", "time", "eval"), rows)


def _row(name: str, stage: "StagePlan | SweepPlan", plain: str) -> tuple[str, ...]:
    seconds, flops = stage.evaluation_seconds, stage.evaluation_flops
    evaluation = "–" if not flops else in_flops(flops) if seconds is None else in_time(seconds)
    counts = (f"{stage.steps:,}", f"{stage.trainable_parameters:,}", in_flops(stage.flops))
    return (name, *counts, plain, in_bytes(stage.peak_bytes), in_time(stage.seconds), evaluation)


def notes(plan: "Plan") -> list[str]:
    """What does not fit into the table."""
    lines = [f"{stage.name}: {stage.reuse.in_words()}" for stage in plan.stages]
    lines += [f"{stage.name}: FLOPs are not counted, {stage.uncounted}" for stage in plan.stages if stage.uncounted]
    if plan.sweep is not None:
        lines += sweep_notes(plan.sweep)
    if plan.base_evaluation_flops:
        lines.append(
            f"evaluation of the base: {in_flops(plan.base_evaluation_flops)}"
            f" ({in_flops(plan.plain_evaluation_flops)} with nothing shared)"
        )
    if plan.flops_per_second is not None:
        whose = "this machine's matrix rate" if plan.is_measured else "as given for each device"
        lines.append(f"times are at {in_flops(plan.flops_per_second)}/s, {whose}: a run takes longer")
    if plan.processes > 1:
        lines.append("memory is that of each process; evaluations are not shared out; nothing that is sent is counted")
    return lines


def sweep_notes(sweep: "SweepPlan") -> list[str]:
    """How the configurations run, and what that costs beside other ways to train them."""
    one, alone = sweep.one_plain_flops, sweep.all_alone_flops
    whole = sweep.configurations - sweep.behind_prefixes
    apart = f"; {whole} of {sweep.configurations} configurations run whole rows" if whole else ""
    return [
        f"{sweep.stage}: {sweep.reuse.in_words()}{apart}",
        f"all {sweep.configurations} side by side: {in_flops(sweep.flops)}, {in_digits(sweep.flops / one, 2)} times one"
        f" plain run of one ({in_flops(one)}) and {in_digits(sweep.flops / alone, 2)} times all run alone"
        f" ({in_flops(alone)})",
    ]
