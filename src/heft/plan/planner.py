"""`heft plan`: what a recipe will cost, from its data, its tokenizer and its model's config. No weights are read."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from transformers import PreTrainedModel

from heft.adapters.attach import check_targets
from heft.adapters.existing import check_sources
from heft.adapters.methods import edited_positions
from heft.costs.amounts import ModelCosts
from heft.costs.evaluation import Evaluations, evaluation_cost
from heft.costs.figures import DataPlan, Plan, StagePlan, SweepPlan
from heft.costs.memory import stage_bytes, weight_bytes
from heft.costs.processes import Processes
from heft.costs.skeleton import skeleton_of, tokenizer_for
from heft.costs.stage import stage_costs
from heft.data.encode import EncodedExample
from heft.data.rows import Data, read_data
from heft.errors import HeftError
from heft.models.load import choose_device
from heft.models.precision import auto_dtype
from heft.models.quantization import with_own_quantization
from heft.recipe.defaults import Facts, with_defaults
from heft.recipe.grid import configurations, last_stage, recipe_of
from heft.recipe.recipe import Recipe
from heft.runtime import distributed
from heft.runtime.reporter import Reporter
from heft.sweep.costs import sweep_costs
from heft.training.reuse.plan import PREFIXES, ReusePlan

FEW_TOKENS, MANY_TOKENS = 128, 1024
"""Rows of the products that the probe measures: a batch of suffixes, and one of whole rows; more are no faster."""


def make_plan(
    recipe: Recipe,
    reporter: Reporter | None = None,
    probe_seconds: float = 10.0,
    processes: int = 1,
    on: str | None = None,
    rate: float | None = None,
) -> Plan:
    """Count what a recipe will cost.

    Args:
        recipe: the recipe.
        reporter: hears of rows and of the probe; None for no one.
        probe_seconds: how long this machine's matrix rate is measured; 0 leaves seconds out.
        processes: that will train together, each on a device of its own.
        on: "cpu", "cuda" or "mps", the devices' kind, which this machine need not have; None for the recipe's.
        rate: FLOPs a second of each device's matrix products; None measures this machine's.

    Raises:
        HeftError: the data, the tokenizer or the config cannot be loaded, or an adapter has no place in the model; or
            the recipe is a sweep, which runs in one process.
    """
    reporter = reporter or Reporter()
    if processes > 1 and recipe.sweep is not None:
        raise HeftError("a sweep runs in one process; leave --processes out")
    recipe, device = _placed(recipe, on)
    base = skeleton_of(recipe, None)
    alone = [recipe] if recipe.sweep is None else [recipe_of(recipe, tried) for tried in configurations(recipe)]
    for each in alone:
        check_targets(base, each, tokenizer_for(each))
        check_sources(base, each, None, reporter.warn)
    edited = [positions for each in alone for positions in edited_positions(each)]
    data = read_data(alone[0], Reporter(), edited)  # rows are the same for all configurations of a sweep
    recipe = with_defaults(recipe, Facts(len(data.train), base.num_parameters()), reporter.note)
    sharing = Processes(processes, distributed.shards(recipe.distributed, processes))
    work = _Planner(recipe, base, data, device, sharing, rate)
    if probe_seconds and rate is None:
        _require_here(device)
        reporter.note(f"probing this machine for {probe_seconds:.0f} seconds")
        work.probe(probe_seconds)
    return work.plan()


def _placed(recipe: Recipe, on: str | None) -> tuple[Recipe, torch.device]:
    """The recipe with the dtype that it has on devices of that kind, and the device."""
    if on is None:
        return recipe, choose_device(recipe.model.device)
    dtype = auto_dtype(on, multiplies_bfloat16=on == "cuda") if recipe.model.dtype == "auto" else recipe.model.dtype
    model = recipe.model.model_copy(update={"dtype": dtype, "device": "auto"})
    return recipe.model_copy(update={"model": model}), torch.device(on)


def _require_here(device: torch.device) -> None:
    """Require a device of that kind in this machine, to measure."""
    try:
        choose_device(device.type)
    except HeftError:
        raise HeftError(
            f"this machine has no {device.type} device to measure: give its rate (--rate 4e14), or add --no-probe"
        ) from None


class _Planner:
    def __init__(
        self,
        recipe: Recipe,
        base: PreTrainedModel,
        data: Data,
        device: torch.device,
        processes: Processes,
        rate: float | None,
    ):
        self._recipe, self._base, self._train, self._eval, self._device = recipe, base, data.train, data.eval, device
        self._processes = processes
        self._weights = weight_bytes(base, with_own_quantization(recipe.model, base.config).quantization)
        self._held = processes.share(self._weights) + processes.whole_bytes(base)
        self._rate_is_given = rate is not None
        self._rate: float | None = rate
        self._small_rate: float | None = rate

    def probe(self, seconds: float) -> None:
        """Measure the rate at whole rows and, for suffixes, at few tokens."""
        shapes = Counter(
            tuple(p.shape)
            for name, p in self._base.named_parameters()
            if p.dim() == 2 and any(part.isdigit() for part in name.split("."))
        )
        self._rate, self._small_rate = (
            _matrix_rate(shapes, tokens, self._base.dtype, self._device, seconds / 2)
            for tokens in (MANY_TOKENS, FEW_TOKENS)
        )

    def plan(self) -> Plan:
        """Every stage in order; a sweep in place of the last one."""
        recipe = self._recipe
        names = list(recipe.stages) if recipe.sweep is None else list(recipe.stages)[:-1]
        base = self._evaluations.base_costs
        return Plan(
            model=recipe.model.name,
            device=str(self._device),
            parameters=sum(p.numel() for p in self._base.parameters()),
            weight_bytes=self._weights,
            train=_data_plan(self._train),
            eval=_data_plan(self._eval),
            base_evaluation_flops=self._evaluations.flops("base", base) if recipe.sweep is None else 0.0,
            plain_evaluation_flops=self._plain_evaluation(base) if recipe.sweep is None else 0.0,
            stages=[self._stage(name) for name in names],
            sweep=None if recipe.sweep is None else self._sweep(),
            flops_per_second=self._rate,
            processes=self._processes.count,
            is_sharded=self._processes.is_sharded,
            device_weight_bytes=self._held,
            host_weight_bytes=self._weights if self._processes.is_sharded else 0,
            is_measured=self._rate is not None and not self._rate_is_given,
        )

    @cached_property
    def _evaluations(self) -> Evaluations:
        return Evaluations(self._recipe, self._base, self._eval, self._device)

    def _plain_evaluation(self, costs: ModelCosts | None) -> float | None:
        return evaluation_cost(self._recipe, self._base, costs, self._eval, self._device, share=False)

    def _stage(self, name: str) -> StagePlan:
        sharded, device = self._processes.is_sharded, self._device
        work = stage_costs(self._recipe, name, self._train, is_sharded=sharded, device=device)
        flops = work.flops(work.planned_passes)
        evaluation, peak = 0.0, None
        if self._recipe.sweep is None:
            evaluation = self._evaluations.flops(name, work.shape.costs)
        if work.shape.uncounted is None and not work.stage.is_frozen:
            text = self._base.config.get_text_config()
            peak = self._held + stage_bytes(work, text, self._device, self._processes)
        return StagePlan(
            name=name,
            method=work.stage.method,
            rows=len(work.rows),
            steps=work.planned_steps,
            trainable_parameters=work.shape.trainable_parameters,
            flops=flops,
            plain_flops=work.plain_flops(work.planned_passes),
            reuse=work.reuse,
            peak_bytes=peak,
            uncounted=work.shape.uncounted,
            evaluation_flops=evaluation,
            seconds=self._seconds(None if flops is None else flops / self._processes.count, work.reuse),
            evaluation_seconds=self._seconds(evaluation),
        )

    def _sweep(self) -> SweepPlan:
        work = sweep_costs(self._recipe, self._train, self._base)
        name, _ = last_stage(self._recipe)
        plan = work.plan(name, self._base.config.get_text_config(), self._device)
        evaluation = 0.0
        if self._recipe.sweep.evaluate_winner:  # the first configuration stands for the winner
            evaluation = self._evaluations.flops(name, work.members[0].costs)
        return replace(
            plan,
            peak_bytes=self._weights + plan.peak_bytes,
            evaluation_flops=evaluation,
            seconds=self._seconds(plan.flops),
            evaluation_seconds=self._seconds(evaluation),
        )

    def _seconds(self, flops: float | None, reuse: ReusePlan | None = None) -> float | None:
        """At the rate of whole rows, or of few tokens where prefixes are reused and so few tokens are left."""
        if self._rate is None or flops is None:
            return None
        return flops / (self._small_rate if reuse is not None and reuse.kind == PREFIXES else self._rate)


def _data_plan(rows: Sequence[EncodedExample]) -> DataPlan:
    lengths = [row.length for row in rows]
    cut = sum(row.cut > 0 for row in rows)
    return DataPlan(len(rows), sum(lengths), sum(lengths) / len(rows), max(lengths), cut)


def _matrix_rate(
    shapes: Mapping[tuple[int, int], int], tokens: int, dtype: torch.dtype, device: torch.device, seconds: float
) -> float:
    """FLOPs a second of products of (tokens, in) by (in, out), for (out, in) weighted by how often the model has it."""
    flops = spent = 0.0
    for (outputs, inputs), times in shapes.items():
        flops += 2.0 * tokens * inputs * outputs * times
        left = torch.randn(tokens, inputs, dtype=dtype, device=device)
        right = torch.randn(outputs, inputs, dtype=dtype, device=device)
        spent += times * _seconds_of_product(left, right, seconds / len(shapes))
    return flops / spent


def _seconds_of_product(left: torch.Tensor, right: torch.Tensor, budget: float) -> float:
    """The median time of one product; the first, which warms up, is left out."""
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < budget:
        before = time.perf_counter()
        torch.nn.functional.linear(left, right)
        if left.device.type == "cuda":
            torch.cuda.synchronize(left.device)
        times.append(time.perf_counter() - before)
    return sorted(times[1:])[len(times[1:]) // 2]
