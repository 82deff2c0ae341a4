"""What a stage costs in training, by how often its rows are seen: the plan's figures, and those of a finished run."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from heft.costs.rows import lower_row, plain_row, prefix_row, suffix_row, upper_row
from heft.costs.shapes import Shape, shape_of_stage
from heft.data.encode import EncodedExample
from heft.data.validation import split_validation
from heft.models.load import choose_device
from heft.models.precision import resolved_dtype
from heft.recipe.recipe import Recipe, Stage
from heft.runtime import distributed
from heft.training.attention import is_slow_in_sdpa
from heft.training.reuse.plan import LOWER_LAYERS, NOTHING, PREFIXES, ReusePlan, decide_reuse, nothing
from heft.training.reuse.shared import shared_prefix
from heft.training.stage import planned_passes, planned_steps

_MOST_KV = 128
"""Hidden states that a token's keys and values may take the room of, where they cannot be counted: 64 layers' worth."""


@dataclass(frozen=True)
class StageCosts:
    """What a stage costs in training. `passes` is how often each row is seen, on average.

    Where an earlier stage has computed the prefixes that it shares, `is_filled`, they cost nothing.

    Counted: every product in the forward and backward passes over the rows that are trained on, with what is computed
    for reuse. Not counted: padding, validation, the optimizer.
    """

    stage: Stage
    shape: Shape
    rows: list[EncodedExample]
    validation_rows: list[EncodedExample]
    reuse: ReusePlan
    is_filled: bool = False

    @property
    def planned_steps(self) -> int:
        """Optimiser steps, if nothing ends them early."""
        return planned_steps(self.stage, len(self.rows))

    @property
    def planned_passes(self) -> float:
        """What these steps come to."""
        return planned_passes(self.stage, len(self.rows))

    def passes_of(self, tokens: int) -> float:
        """What a run's tokens come to, those of prompts and answers trained on."""
        return tokens / sum(row.length for row in self.rows)

    def plain_flops(self, passes: float) -> float | None:
        """FLOPs with every token computed in every layer at every step; None where they are not counted."""
        if self.shape.costs is None:
            return None
        return passes * sum(plain_row(self.shape.costs, row, self.stage.gradient_checkpointing) for row in self.rows)

    def flops(self, passes: float) -> float | None:
        """FLOPs with what is reused; None where they are not counted."""
        if self.shape.costs is None:
            return None
        costs, start = self.shape.costs, self.reuse.start
        once = passes if self.reuse.store == "off" else 0.0 if self.is_filled else min(passes, 1.0)
        if self.reuse.kind == PREFIXES:
            every_time = passes * sum(suffix_row(costs, row, start) for row in self.rows)
            return every_time + once * sum(prefix_row(costs, row, start) for row in self.rows)
        if self.reuse.kind == LOWER_LAYERS:
            every_time = passes * sum(upper_row(costs, row) for row in self.rows)
            return every_time + once * sum(lower_row(costs, row) for row in self.rows)
        return self.plain_flops(passes)


def stage_costs(
    recipe: Recipe,
    name: str,
    examples: Sequence[EncodedExample],
    is_sharded: bool | None = None,
    device: torch.device | None = None,
) -> StageCosts:
    """Count a stage of a recipe. The store of what is reused is chosen now, by what is free now.

    Args:
        examples: all training rows, validation rows among them.
        is_sharded: whether processes share the model out; None for what those of this run do.
        device: that it trains on; None for the recipe's.
    """
    is_sharded = distributed.shards(recipe.distributed) if is_sharded is None else is_sharded
    stage, shape = recipe.stages[name], shape_in_training(recipe, name, examples, device)
    if stage.is_frozen:
        shape = replace(shape, trainable_parameters=0)
        return StageCosts(stage, shape, list(examples), [], nothing("the stage trains nothing"))
    rows, validation_rows = split_validation(examples, stage.holdout, recipe.holdout_seed)
    reuse = None if is_sharded else _shared_reuse(recipe, name, shape, examples)
    if reuse is not None:
        return StageCosts(stage, shape, rows, validation_rows, reuse, is_filled=name != reuse.stages[0])
    uses = planned_passes(stage, len(rows))
    plan = decide_reuse(stage, shape.reuse, is_sharded=is_sharded)
    reuse = _stored(plan, stage, shape, [*rows, *validation_rows], uses)
    return StageCosts(stage, shape, rows, validation_rows, reuse)


def shape_in_training(
    recipe: Recipe, name: str, examples: Sequence[EncodedExample], device: torch.device | None = None
) -> Shape:
    """With the attention that it trains with. Arguments and errors are those of `stage_costs`."""
    settings, device = recipe.model, device or choose_device(recipe.model.device)
    dtype = getattr(torch, resolved_dtype(settings, device))
    return shape_of_stage(recipe, name, is_slow_in_sdpa(device, dtype, settings.attention, examples))


def _shared_reuse(recipe: Recipe, name: str, shape: Shape, examples: Sequence[EncodedExample]) -> ReusePlan | None:
    """The prefixes of all training rows that the stage shares with others; None where it does not, or without room."""
    shared = shared_prefix(recipe)
    if shared is None or name not in shared.stages:
        return None
    plan = decide_reuse(recipe.stages[name], shape.reuse, shared)
    members = [recipe.stages[each] for each in shared.stages]
    trained = [len(split_validation(examples, each.holdout, recipe.holdout_seed)[0]) for each in members]
    taken = sum(planned_passes(each, rows) * rows for each, rows in zip(members, trained, strict=True))
    if plan.stages:
        plan = _stored(plan, recipe.stages[name], shape, examples, taken / len(examples))
    return plan if plan.stages and plan.store != "off" else None


def _stored(plan: ReusePlan, stage: Stage, shape: Shape, rows: Sequence[EncodedExample], uses: float) -> ReusePlan:
    """The plan with a store, chosen by what is free now."""
    if plan.kind == NOTHING:
        return plan
    bytes_per_token = shape.reuse.state_bytes
    if plan.kind == PREFIXES:
        bytes_per_token = shape.costs.kv_bytes if shape.costs is not None else _MOST_KV * bytes_per_token
    return plan.stored(rows, bytes_per_token, stage.cache, uses, Path(tempfile.gettempdir()))
