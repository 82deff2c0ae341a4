"""What a stage costs in training, by how often its rows are seen: the plan's figures, and those of a finished run."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from heft.adapters.attach import trainable_parameters
from heft.costs.operations import Costs, Uncountable, costs_of
from heft.costs.rows import lower_row, plain_row, prefix_row, suffix_row, upper_row
from heft.costs.skeleton import skeleton_of
from heft.data.encode import EncodedExample
from heft.models.load import choose_device
from heft.recipe.recipe import Recipe, ReftStage, Stage
from heft.training.attention import trains_eager
from heft.training.reuse.lower_layers import first_edited_layer
from heft.training.reuse.prefix import has_dropout, reach
from heft.training.reuse.stores import choose_store
from heft.training.stage import hold_back, planned_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """What a stage's model is like while it trains.

    Attributes:
        costs: of one pass, the layers below the first edited one counted apart; None where it cannot be counted.
        uncounted: why not, in words; None where it is counted.
        trainable_parameters: how many numbers train.
        reach: edited tokens from a prompt's end, where prefixes can stand for their tokens; else None.
        layer: the first edited layer, where the layers below can be skipped; else None.
        state_bytes: of one token's hidden state.
        has_dropout: whether the base drops anything out.
    """

    costs: Costs | None
    uncounted: str | None
    trainable_parameters: int
    reach: int | None
    layer: int | None
    state_bytes: int
    has_dropout: bool


def shape_of(model: "PreTrainedModel") -> Shape:
    """Look at a skeleton (see heft.costs.skeleton), which cannot run afterwards."""
    layer = first_edited_layer(model)
    state_bytes = model.config.get_text_config().hidden_size * model.dtype.itemsize
    about = (trainable_parameters(model), reach(model), layer, state_bytes, has_dropout(model))
    try:
        return Shape(costs_of(model, layer or 0), None, *about)
    except Uncountable as error:
        return Shape(None, str(error), *about)


@dataclass(frozen=True)
class Reuse:
    """What a stage computes without gradients, and once where it is kept (see heft.training.reuse.decide).

    Attributes:
        kind: "prefixes", "lower layers" or "nothing".
        start: edited tokens from a prompt's end (prefixes), or the first edited layer (lower layers).
        tokens: of all rows, held-back ones included.
        bytes: that keeping them takes.
        store: "memory", "disk" or "off".
        why_not: in words, where the kind is "nothing".
    """

    kind: str
    start: int = 0
    tokens: int = 0
    bytes: int = 0
    store: str = "off"
    why_not: str | None = None


@dataclass(frozen=True)
class StageCosts:
    """What a stage costs in training. `passes` is how often each row is seen, on average.

    Counted: every product in the forward and backward passes over the rows that are trained on, with what is computed
    for reuse. Not counted: padding, held-back evaluations, the optimiser.
    """

    stage: Stage
    shape: Shape
    rows: list[EncodedExample]
    held_back: list[EncodedExample]
    reuse: Reuse

    @property
    def planned_steps(self) -> int:
        """Optimiser steps, if nothing ends them early."""
        return planned_steps(self.stage, len(self.rows))

    @property
    def planned_passes(self) -> float:
        """What these steps come to."""
        return self.planned_steps / ceil(len(self.rows) / self.stage.batch_size)

    def passes_of(self, tokens: int) -> float:
        """What a run's tokens come to, those of prompts and answers trained on."""
        return tokens / sum(len(row.prompt) + len(row.answer) for row in self.rows)

    @property
    def uncounted(self) -> str | None:
        """Why FLOPs are not counted; None where they are."""
        return self.shape.uncounted

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
        once = passes if self.reuse.store == "off" else min(passes, 1.0)
        if self.reuse.kind == "prefixes":
            every_time = passes * sum(suffix_row(costs, row, start) for row in self.rows)
            return every_time + once * sum(prefix_row(costs, row, start) for row in self.rows)
        if self.reuse.kind == "lower layers":
            every_time = passes * sum(upper_row(costs, row) for row in self.rows)
            return every_time + once * sum(lower_row(costs, row) for row in self.rows)
        return self.plain_flops(passes)


def stage_costs(
    recipe: Recipe, name: str, examples: Sequence[EncodedExample], shape: Shape | None = None
) -> StageCosts:
    """Count a stage of a recipe. Where reuse goes is chosen now, by what is free now.

    Args:
        recipe: whose stage it is.
        name: of the stage.
        examples: the training rows, with those that the stage holds back.
        shape: of the model while the stage trains, where it is known already.
    """
    stage = recipe.stages[name]
    shape = shape or shape_of(_skeleton_in_training(recipe, name, examples))
    rows, held_back = hold_back(examples, stage.holdout, recipe.seed + list(recipe.stages).index(name))
    uses = planned_steps(stage, len(rows)) * stage.batch_size / len(rows)
    return StageCosts(stage, shape, rows, held_back, _reuse(stage, shape, [*rows, *held_back], uses))


_MOST_KV = 128
"""Hidden states that a token's keys and values may take the room of, where they cannot be counted: 64 layers' worth."""


def _skeleton_in_training(recipe: Recipe, name: str, examples: Sequence[EncodedExample]) -> "PreTrainedModel":
    """With the attention that it trains with, whose products are the same and whose memory is another."""
    model, settings = skeleton_of(recipe, name), recipe.model
    if trains_eager(model, choose_device(settings.device), settings.attention, examples):
        model.set_attn_implementation("eager")
    return model


def _reuse(stage: Stage, shape: Shape, rows: Sequence[EncodedExample], uses: float) -> Reuse:
    """As `heft.training.reuse.decide.loss_for` decides."""
    if not isinstance(stage, ReftStage):
        return _nothing("weights train")
    if not stage.reuse:
        return _nothing("reuse is false")
    if stage.gradient_checkpointing:
        return _nothing("gradient checkpointing runs the blocks again")
    if shape.has_dropout:
        return _nothing("the base model has dropout of its own")
    if shape.reach is not None:
        kv_bytes = shape.costs.kv_bytes if shape.costs is not None else _MOST_KV * shape.state_bytes
        return kept_prefixes(rows, shape.reach, kv_bytes, stage.cache, uses)
    if shape.layer is None:
        return _nothing(f"positions {stage.positions} edit from the first token and the first layer on")
    lengths = [len(row.prompt) + len(row.answer) for row in rows]
    found = _kept("lower layers", shape.layer, lengths, shape.state_bytes, stage.cache, uses)
    if found.store != "off":
        return found
    why = "cache is off" if stage.cache == "off" else "no row is used twice" if uses <= 1 else "there is no room"
    return _nothing(f"what enters layer {shape.layer}, the first that is edited, is not kept: {why}")


def kept_prefixes(rows: Sequence[EncodedExample], start: int, kv_bytes: int, cache: str, uses: float) -> Reuse:
    """Reuse of the tokens before the last `start` of each prompt; `cache` and `uses` as for `choose_store`."""
    return _kept("prefixes", start, [len(row.prompt) - start for row in rows], kv_bytes, cache, uses)


def _kept(kind: str, start: int, lengths: list[int], bytes_per_token: int, cache: str, uses: float) -> Reuse:
    store = choose_store(cache, lengths, bytes_per_token, uses, Path(tempfile.gettempdir()))
    return Reuse(kind, start, sum(lengths), sum(lengths) * bytes_per_token, store.kind)


def _nothing(why: str) -> Reuse:
    return Reuse("nothing", why_not=why)
