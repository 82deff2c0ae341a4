"""What the passes of a sweep cost (see heft.sweep.forward), beside its configurations run alone.

Counted per row, without padding: an item runs its row from its first edited token to the last token but one, items that
share a sequence are compared with each other too, and the backward pass goes down to the lowest layer that any of the
configurations in a pass edits. Configurations whose seed and batch size are equal see the same rows in each step; that
others ever do is left out. Validation and the ranking are not counted, as in the plan of a stage.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from heft.costs.amounts import Flops, ModelCosts
from heft.costs.figures import SweepPlan
from heft.costs.memory import Batch, edited_of, pass_bytes, store_bytes, trained_bytes
from heft.costs.rows import prefix_row
from heft.costs.stage import StageCosts, stage_costs
from heft.data.batching import packs
from heft.data.encode import EncodedExample
from heft.edits.positions import parse_positions
from heft.errors import HeftError
from heft.recipe.defaults import Facts, settled
from heft.recipe.grid import Configuration, configurations, last_stage, recipe_of
from heft.recipe.recipe import Recipe
from heft.sweep.forward import can_stand_side_by_side
from heft.sweep.packing import WorkItem, side_by_side
from heft.sweep.sharing import decide_sharing
from heft.training.reuse.plan import NOTHING, PREFIXES, ReusePlan


@dataclass(frozen=True)
class Member:
    """One configuration.

    Attributes:
        alone: what it costs in a run of its own.
        seed: of its rows' order.
        suffix: edited tokens from a prompt's end, where it runs behind a shared prefix; None where it runs whole rows.
    """

    alone: StageCosts
    seed: int
    suffix: int | None

    @property
    def costs(self) -> ModelCosts:
        """Of its tokens."""
        return self.alone.shape.costs

    @property
    def token(self) -> Flops:
        """Of each of its tokens, without what a LoRA of all tokens adds: base weights and earlier stages."""
        return self.costs.token + self.branch * -1

    @property
    def branch(self) -> Flops:
        """Of each of its tokens, what a LoRA of all tokens adds; one of some tokens is among `costs.edits`."""
        if self.alone.stage.method != "lora" or not parse_positions(self.alone.stage.positions).all_tokens:
            return Flops()
        return Flops(2, 4) * self.alone.shape.trainable_parameters

    @property
    def group(self) -> tuple:
        """What members that run together on equal rows have in common."""
        return (self.suffix is None, self.seed, self.alone.stage.batch_size)

    @property
    def micro_batch(self) -> int:
        """Rows of one forward pass."""
        stage = self.alone.stage
        return min(stage.micro_batch_size or stage.batch_size, len(self.alone.rows))

    def start(self, row: EncodedExample) -> int:
        """The first token that runs."""
        return 0 if self.suffix is None else len(row.prompt) - self.suffix

    def width(self, row: EncodedExample) -> int:
        """How many tokens run; the answer's last one does not, since it predicts nothing."""
        return row.length - 1 - self.start(row)


@dataclass(frozen=True)
class SweepCosts:
    """What a sweep's last stage costs.

    Attributes:
        members: its configurations.
        reuse: of the prefixes that they share, or why none are.
        tokens_per_pass: most tokens of configurations in one pass.
        is_filled: whether the prefixes are there already, and cost nothing.
    """

    members: Sequence[Member]
    reuse: ReusePlan
    tokens_per_pass: int
    is_filled: bool = False

    @property
    def rows(self) -> list[EncodedExample]:
        """That all train on."""
        return self.members[0].alone.rows

    @cached_property
    def groups(self) -> list[list[Member]]:
        """Members that run together on equal rows."""
        found: dict[tuple, list[Member]] = {}
        for member in self.members:
            found.setdefault(member.group, []).append(member)
        return list(found.values())

    def flops(self) -> float:
        """FLOPs of training, all side by side."""
        total = 0.0
        for group in self.groups:
            begin = 0
            for end in sorted({member.alone.planned_steps for member in group}):
                training = [member for member in group if member.alone.planned_steps >= end]
                passes = (end - begin) / ceil(len(self.rows) / group[0].alone.stage.batch_size)
                for pack in packed(training, self.rows, self.tokens_per_pass):
                    total += passes * pass_flops(pack, self.rows)
                begin = end
        return total + self._prefix_flops()

    def _prefix_flops(self) -> float:
        if self.reuse.kind == NOTHING or self.is_filled:
            return 0.0
        longest = [max(m.alone.planned_passes for m in g) for g in self.groups if g[0].suffix is not None]
        computed = sum(longest) if self.reuse.store == "off" else min(1.0, max(longest))
        nearest = next(m for m in self.members if m.suffix == self.reuse.start)  # its own edits are behind the prefix
        return computed * sum(prefix_row(nearest.costs, row, self.reuse.start) for row in self.rows)

    def peak_bytes(self, text: PreTrainedConfig, device: torch.device) -> int:
        """Bytes of training at its peak, beside the base model's weights; arguments as for `stage_bytes`."""
        needed = sum(trained_bytes(m.alone.shape.trainable_parameters, m.alone.stage.optimizer) for m in self.members)
        row = max(self.rows, key=lambda row: row.length)
        packs = [p for g in self.groups for p in packed(g, [row], self.tokens_per_pass)]
        needed += max(_pack_bytes(pack, row, text, device) for pack in packs)
        if self.reuse.kind == PREFIXES and self.reuse.store == "off":  # prefixes are cached for one step
            rows = sum(group[0].alone.stage.batch_size for group in self.groups if group[0].suffix is not None)
            needed += round(self.members[0].costs.kv_bytes * rows * (len(row.prompt) - self.reuse.start))
        return needed + store_bytes(self.reuse, device)

    def plan(self, stage: str, text: PreTrainedConfig, device: torch.device) -> SweepPlan:
        """All figures but times and the winner's evaluation."""
        alone = [member.alone for member in self.members]
        return SweepPlan(
            stage=stage,
            configurations=len(alone),
            behind_prefixes=sum(member.suffix is not None for member in self.members),
            rows=len(self.rows),
            steps=max(each.planned_steps for each in alone),
            trainable_parameters=sum(each.shape.trainable_parameters for each in alone),
            flops=self.flops(),
            one_plain_flops=sum(each.plain_flops(each.planned_passes) for each in alone) / len(alone),
            all_alone_flops=sum(each.flops(each.planned_passes) for each in alone),
            reuse=self.reuse,
            peak_bytes=self.peak_bytes(text, device),
            evaluation_flops=0.0,
        )


def sweep_costs(recipe: Recipe, examples: Sequence[EncodedExample], model: PreTrainedModel) -> SweepCosts:
    """Count a recipe's sweep on these training and validation rows; `model` is the base's skeleton.

    Raises:
        HeftError: the model does not run without weights.
    """
    tried = settled(configurations(recipe), Facts(len(examples), model.num_parameters()))
    return side_by_side_costs(recipe, tried, examples, model, recipe.sweep.tokens_per_pass)


def side_by_side_costs(
    recipe: Recipe,
    tried: Sequence[Configuration],
    examples: Sequence[EncodedExample],
    model: PreTrainedModel,
    tokens_per_pass: int,
    kept: int | None = None,
) -> SweepCosts:
    """As `sweep_costs`, of these configurations of the recipe's last stage.

    Args:
        kept: how far the stages before reach back, where the base's prefixes are there already; None where not.
    """
    name, stage = last_stage(recipe)
    alone, seeds = [], []
    for configuration in tried:
        own = recipe_of(recipe, configuration)
        costs = stage_costs(own, name, examples)
        if costs.shape.costs is None:
            raise HeftError(f"a sweep of this model cannot be counted: {costs.shape.uncounted}")
        alone.append(costs)
        seeds.append(own.stage_seed(name))
    stages = [configuration.stage for configuration in tried]
    rows, validation_rows = alone[0].rows, alone[0].validation_rows
    model_allows = recipe.model.attention != "flash_attention_2" and can_stand_side_by_side(model)
    sharing = decide_sharing(stages, seeds, len(rows), len(validation_rows), model_allows, kept or 0)
    plan = sharing.plan
    if plan.kind == PREFIXES:
        folder = Path(tempfile.gettempdir())
        plan = plan.stored([*rows, *validation_rows], alone[0].shape.costs.kv_bytes, stage.cache, sharing.uses, folder)
    members = [Member(*about) for about in zip(alone, seeds, sharing.suffixes, strict=True)]
    return SweepCosts(members, plan, tokens_per_pass, is_filled=kept is not None)


def packed(members: Sequence[Member], rows: Sequence[EncodedExample], limit: int) -> list[list[Member]]:
    """Members whose micro-batches of mean rows go through the model together: `limit` tokens at most, or a lone one."""
    return packs(members, lambda member: member.micro_batch * sum(map(member.width, rows)) / len(rows), limit)


def pass_flops(pack: Sequence[Member], rows: Sequence[EncodedExample]) -> float:
    """FLOPs, forward and backward, of every row once, for all members of a pack."""
    deepest = max(pack, key=lambda member: member.token.backward)
    costs = deepest.costs
    layouts: dict[int, list[list[Member]]] = {}
    total = Flops()
    for row in rows:
        prompt, answer = len(row.prompt), len(row.answer)
        if answer not in layouts:
            layouts[answer] = sequences(pack, row)
        for sequence in layouts[answer]:
            tokens = sum(member.width(row) for member in sequence)
            cached = max(member.start(row) for member in sequence)
            total += deepest.token * tokens + costs.attention(tokens, tokens, cached)
            total += costs.column * (answer * len(sequence))
        for member in pack:
            total += member.branch * member.width(row)
            for (positions, group), edit in member.costs.edits.items():
                total += edit * positions.count(prompt, member.start(row), prompt + answer - 1, group)
    return total.total


def sequences(pack: Sequence[Member], row: EncodedExample) -> list[list[Member]]:
    """Which members' items of a row share a sequence."""
    if pack[0].suffix is None:
        return [[member] for member in pack]
    items = [WorkItem(number, 0, member.start(row), row.answer) for number, member in enumerate(pack)]
    batch = side_by_side(items, [row], 0)
    return [[pack[n] for n in sorted(set(found.tolist())) if n >= 0] for found in batch.item_of]


def _pack_bytes(pack: Sequence[Member], row: EncodedExample, text: PreTrainedConfig, device: torch.device) -> int:
    """Bytes of one pass over micro-batches of rows like this one."""
    costs = max((member.costs for member in pack), key=lambda costs: costs.saved.token)
    laid, rows, prompt = sequences(pack, row), pack[0].micro_batch, len(row.prompt)
    edited: dict = {}
    for member in pack:
        found = edited_of(member.costs, rows, prompt, member.start(row), prompt + len(row.answer) - 1)
        edited |= {key: edited.get(key, 0) + count for key, count in found.items()}
    width = max(sum(member.width(row) for member in sequence) for sequence in laid)
    cached = max(member.start(row) for member in pack)
    batch = Batch(rows * len(laid), width, cached, rows * len(pack) * len(row.answer), edited)
    return pass_bytes(costs, batch, text, device)
