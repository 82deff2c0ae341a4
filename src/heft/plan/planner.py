"""`heft plan`: what a recipe will cost, from its data, its tokenizer and its model's config. No weights are read."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from heft.data import EncodedExample, Encoder
from heft.models import choose_device, load_tokenizer
from heft.plan.counting import (
    evaluation_flops,
    evaluation_passes,
    generation_flops,
    plain_row,
    prefix_row,
    suffix_row,
)
from heft.plan.memory import activation_bytes, longest, training_bytes, weight_bytes
from heft.plan.operations import Costs, costs_of
from heft.plan.probe import matrix_rates
from heft.plan.skeleton import skeleton_of
from heft.recipe import Recipe, ReftStage, Stage
from heft.reporter import Reporter
from heft.stages import check_targets, edited_positions, trainable_parameters
from heft.tasks import load_examples, task_for
from heft.training.prefix import reach
from heft.training.stage import hold_back, planned_steps
from heft.training.stores import choose_store

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class DataPlan:
    """Rows of a split: how many, their tokens (prompt and answer), and how many prompts are cut to the limit."""

    rows: int
    tokens: int
    mean_tokens: float
    longest: int
    cut: int


@dataclass(frozen=True)
class PrefixPlan:
    """Prefix reuse in a stage: tokens before the first edited ones, what keeping them takes, and where they go."""

    tokens: int
    bytes: int
    store: str


@dataclass(frozen=True)
class StagePlan:
    """What a stage will cost. `flops` is what will run, `plain_flops` without prefix reuse; seconds need a probe."""

    name: str
    method: str
    rows: int
    steps: int
    trainable_parameters: int
    plain_flops: float
    flops: float
    prefix: PrefixPlan | None
    peak_bytes: int
    evaluation_flops: float
    seconds: float | None = None
    evaluation_seconds: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a recipe will cost."""

    model: str
    device: str
    parameters: int
    weight_bytes: int
    train: DataPlan
    eval: DataPlan
    base_evaluation_flops: float
    plain_evaluation_flops: float
    stages: list[StagePlan]
    flops_per_second: float | None = None

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


def make_plan(recipe: Recipe, reporter: Reporter | None = None, probe_seconds: float = 10.0) -> Plan:
    """Count what a recipe will cost.

    Args:
        recipe: what would be run.
        reporter: is told what is being done.
        probe_seconds: how long this machine's matrix rate is measured; 0 leaves seconds out.

    Raises:
        HeftError: the data, the tokenizer or the config cannot be had, or an adapter has no place in the model.
    """
    reporter = reporter or Reporter()
    base = skeleton_of(recipe, None)
    check_targets(base, recipe)
    task = recipe.task
    encode = Encoder(load_tokenizer(recipe.model), task.max_length, task.chat_template, edited_positions(recipe))
    train, evaluated = (encode(load_examples(task, split)) for split in ("train", "eval"))
    work = _Planner(recipe, base, train, evaluated, choose_device(recipe.model.device))
    if probe_seconds:
        reporter.note(f"probing this machine for {probe_seconds:.0f} seconds")
        work.probe(probe_seconds)
    return work.plan()


class _Planner:
    def __init__(self, recipe: Recipe, base: "PreTrainedModel", train: list, evaluated: list, device: torch.device):
        self._recipe, self._base, self._train, self._eval, self._device = recipe, base, train, evaluated, device
        self._weights = weight_bytes(base, recipe.model.quantization)
        self._rate: float | None = None
        self._small_rate: float | None = None

    def probe(self, seconds: float) -> None:
        """Measure the rate at whole rows and, for suffixes, at few tokens."""
        shapes: dict[tuple[int, int], int] = {}
        for name, p in self._base.named_parameters():
            if p.dim() == 2 and any(part.isdigit() for part in name.split(".")):
                shapes[p.shape[1], p.shape[0]] = shapes.get((p.shape[1], p.shape[0]), 0) + 1
        few = 16 * 8
        rates = matrix_rates(shapes, [1024, few], self._base.dtype, self._device, seconds)
        self._rate, self._small_rate = rates[1024], rates[few]

    def plan(self) -> Plan:
        """Every stage in order."""
        stages, last_edited = [], 0
        base_costs = costs_of(skeleton_of(self._recipe, None))
        for name, stage in self._recipe.stages.items():
            stages.append(self._stage(name, stage))
        return Plan(
            model=self._recipe.model.name,
            device=str(self._device),
            parameters=sum(p.numel() for p in self._base.parameters()),
            weight_bytes=self._weights,
            train=_data_plan(self._train),
            eval=_data_plan(self._eval),
            base_evaluation_flops=self._evaluation(base_costs, last_edited, self._recipe.evaluation.share_prefix),
            plain_evaluation_flops=self._evaluation(base_costs, last_edited, False),
            stages=stages,
            flops_per_second=self._rate,
        )

    def _evaluation(self, costs: Costs, last_edited: int, share: bool) -> float:
        if not self._eval[0].choices:
            return generation_flops(costs, self._eval, task_for(self._recipe.task).max_new_tokens)
        passes = evaluation_passes(self._eval, self._recipe.evaluation.batch_size, last_edited, share)
        return evaluation_flops(costs, self._eval, passes)

    def _stage(self, name: str, stage: Stage) -> StagePlan:
        model = skeleton_of(self._recipe, name)
        edited = reach(model) if isinstance(stage, ReftStage) and stage.reuse else None
        edited = None if stage.gradient_checkpointing else edited
        trainable = trainable_parameters(model)
        costs = costs_of(model)
        last_edited = max((positions.last for positions, _ in costs.edits), default=0)
        rows, held_back = hold_back(self._train, stage.holdout, self._recipe.seed)
        steps = planned_steps(stage, len(rows))
        passes = steps / ceil(len(rows) / stage.batch_size)
        plain = passes * sum(plain_row(costs, row, stage.gradient_checkpointing) for row in rows)
        flops, prefix = plain, None
        if edited is not None:
            prefix = _prefix_plan(stage, costs, [*rows, *held_back], edited, steps * stage.batch_size)
            flops = passes * sum(suffix_row(costs, row, edited) for row in rows)
            computed = passes if prefix.store == "off" else min(passes, 1)
            flops += computed * sum(prefix_row(costs, row, edited) for row in rows)
        evaluation = self._evaluation(costs, last_edited, self._recipe.evaluation.share_prefix)
        return StagePlan(
            name=name,
            method=stage.method,
            rows=len(rows),
            steps=steps,
            trainable_parameters=trainable,
            plain_flops=plain,
            flops=flops,
            prefix=prefix,
            peak_bytes=self._peak(stage, costs, rows, trainable, edited, prefix),
            evaluation_flops=evaluation,
            seconds=self._seconds(flops, few=edited is not None),
            evaluation_seconds=self._seconds(evaluation, few=False),
        )

    def _seconds(self, flops: float, few: bool) -> float | None:
        return None if self._rate is None else flops / (self._small_rate if few else self._rate)

    def _peak(self, stage: Stage, costs: Costs, rows: list, trainable: int, edited: int | None, prefix) -> int:
        micro = stage.micro_batch_size or stage.batch_size
        full = [len(row.prompt) + len(row.answer) for row in rows]
        run = full if edited is None else [len(row.answer) + edited for row in rows]
        text = self._base.config.get_text_config()
        tokens = longest(run, micro)
        columns = longest([len(row.answer) for row in rows], micro)
        active = activation_bytes(costs, tokens, columns, text.vocab_size)
        if stage.gradient_checkpointing:
            a_layer = costs.kept_bytes / text.num_hidden_layers
            states = text.num_hidden_layers * text.hidden_size * self._base.dtype.itemsize
            active -= round((costs.kept_bytes - a_layer - states) * tokens)
        keys = 2 * costs.kv_bytes * longest(full, micro) if edited is not None else 0
        kept = prefix.bytes if prefix is not None and prefix.store == "memory" else 0
        return self._weights + 4 * trainable + training_bytes(trainable, stage.optimizer) + active + keys + kept


def _prefix_plan(stage: ReftStage, costs: Costs, rows: Sequence[EncodedExample], edited: int, seen: int) -> PrefixPlan:
    lengths = [len(row.prompt) - edited for row in rows]
    folder = Path(tempfile.gettempdir())
    store = choose_store(stage.cache, lengths, costs.kv_bytes, seen / len(rows), folder)
    return PrefixPlan(sum(lengths), sum(lengths) * costs.kv_bytes, store.kind)


def _data_plan(rows: Sequence[EncodedExample]) -> DataPlan:
    lengths = [len(row.prompt) + len(row.answer) for row in rows]
    cut = sum(row.cut > 0 for row in rows)
    return DataPlan(len(rows), sum(lengths), sum(lengths) / len(rows), max(lengths), cut)
