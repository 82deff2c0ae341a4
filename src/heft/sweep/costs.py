"""What the passes of a sweep cost (see heft.sweep.forward), beside its configurations run alone.

Counted per row, without padding: a copy runs its row from its first edited token to the last token but one, copies that
share a sequence are compared with each other too, and the backward pass goes down to the lowest layer that any of the
configurations in a pass edits. Configurations whose seed and batch size are equal see the same rows in each step; that
others ever do is left out. Held-back evaluations and the ranking are not counted, as in the plan of a stage.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING

import torch

from heft.costs.figures import SweepPlan
from heft.costs.memory import Batch, edited_of, pass_bytes, store_bytes, trained_bytes
from heft.costs.operations import Costs, Flops
from heft.costs.rows import edited_tokens, prefix_row
from heft.costs.skeleton import skeleton_of
from heft.costs.stage import Reuse, Shape, StageCosts, kept_prefixes, shape_of, stage_costs
from heft.data.encode import EncodedExample
from heft.errors import HeftError
from heft.recipe.grid import configurations, last_stage, recipe_of
from heft.recipe.recipe import Recipe
from heft.settings.reft import ReftSettings, parse_positions
from heft.sweep.forward import can_stand_side_by_side
from heft.sweep.packing import WorkItem, side_by_side

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Member:
    """One configuration.

    Attributes:
        alone: what it costs in a run of its own.
        seed: of its rows' order.
        reach: edited tokens from a prompt's end, where it runs behind a shared prefix; None where it runs whole rows.
    """

    alone: StageCosts
    seed: int
    reach: int | None

    @property
    def costs(self) -> Costs:
        """Of its tokens."""
        return self.alone.shape.costs

    @property
    def group(self) -> tuple:
        """What members that run together on equal rows have in common."""
        return (self.reach is None, self.seed, self.alone.stage.batch_size)

    @property
    def micro_batch(self) -> int:
        """Rows of one forward pass."""
        stage = self.alone.stage
        return min(stage.micro_batch_size or stage.batch_size, len(self.alone.rows))

    def start(self, row: EncodedExample) -> int:
        """The first token that runs."""
        return 0 if self.reach is None else len(row.prompt) - self.reach

    def width(self, row: EncodedExample) -> int:
        """How many tokens run; the answer's last one does not, since it predicts nothing."""
        return len(row.prompt) + len(row.answer) - 1 - self.start(row)


@dataclass(frozen=True)
class SweepCosts:
    """What a sweep's last stage costs.

    Attributes:
        members: the configurations.
        reuse: the prefixes that they share, or why none are.
        tokens_per_pass: the recipe's limit.
    """

    members: Sequence[Member]
    reuse: Reuse
    tokens_per_pass: int

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
        if self.reuse.kind == "nothing":
            return 0.0
        longest = [max(m.alone.planned_passes for m in g) for g in self.groups if g[0].reach is not None]
        computed = sum(longest) if self.reuse.store == "off" else min(1.0, max(longest))
        nearest = next(m for m in self.members if m.reach == self.reuse.start)  # its own edits are behind the prefix
        return computed * sum(prefix_row(nearest.costs, row, self.reuse.start) for row in self.rows)

    def peak_bytes(self, text: "PreTrainedConfig", device: torch.device) -> int:
        """Bytes of training at its peak, beside the base model's weights; arguments as for `stage_bytes`."""
        needed = sum(trained_bytes(m.alone.shape.trainable_parameters, m.alone.stage.optimizer) for m in self.members)
        row = max(self.rows, key=lambda row: len(row.prompt) + len(row.answer))
        packs = [p for g in self.groups for p in packed(g, [row], self.tokens_per_pass)]
        needed += max(_pack_bytes(pack, row, text, device) for pack in packs)
        if self.reuse.kind == "prefixes" and self.reuse.store == "off":  # prefixes of one step are kept for the step
            rows = sum(group[0].alone.stage.batch_size for group in self.groups if group[0].reach is not None)
            needed += round(self.members[0].costs.kv_bytes * rows * (len(row.prompt) - self.reuse.start))
        return needed + store_bytes(self.reuse, device)

    def plan(self, stage: str, text: "PreTrainedConfig", device: torch.device) -> SweepPlan:
        """All figures but times and the winner's evaluation."""
        alone = [member.alone for member in self.members]
        return SweepPlan(
            stage=stage,
            configurations=len(alone),
            behind_prefixes=sum(member.reach is not None for member in self.members),
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


def sweep_costs(recipe: Recipe, examples: Sequence[EncodedExample], model: "PreTrainedModel") -> SweepCosts:
    """Count a recipe's sweep.

    Args:
        recipe: with a `sweep`.
        examples: the training rows, with those that are held back.
        model: the base's skeleton.

    Raises:
        HeftError: the model does not run without weights.
    """
    name, stage = last_stage(recipe)
    shares = stage.reuse and recipe.model.attention != "flash_attention_2" and can_stand_side_by_side(model)
    index = len(recipe.stages) - 1
    shapes: dict[str, Shape] = {}
    members = []
    for configuration in configurations(recipe):
        alone, own = recipe_of(recipe, configuration), configuration.stage
        looks = own.model_dump_json(include=set(ReftSettings.model_fields))
        if looks not in shapes:
            shapes[looks] = shape_of(skeleton_of(alone, name))
            if shapes[looks].costs is None:
                raise HeftError(f"a sweep of this model cannot be counted: {shapes[looks].uncounted}")
        positions = parse_positions(own.positions)
        reach = positions.last if shares and not positions.first and not positions.every else None
        seed = own.seed if own.seed is not None else recipe.seed + index
        members.append(Member(stage_costs(alone, name, examples, shapes[looks]), seed, reach))
    return SweepCosts(members, _shared_prefixes(members, bool(shares), stage.reuse), recipe.sweep.tokens_per_pass)


def _shared_prefixes(members: Sequence[Member], shares: bool, wanted: bool) -> Reuse:
    """As `heft.sweep.arrange` decides."""
    behind = [member for member in members if member.reach is not None]
    if not behind:
        unfit = "all configurations edit first positions" if shares else "a prefix cannot stand for its tokens here"
        return Reuse("nothing", why_not=unfit if wanted else "reuse is false")
    first = members[0].alone
    rows = [*first.rows, *first.held_back]
    orders = {member.group for member in behind}
    seen = max(member.alone.planned_steps * member.alone.stage.batch_size for member in behind)
    reach = min(member.reach for member in behind)
    return kept_prefixes(rows, reach, behind[0].costs.kv_bytes, first.stage.cache, len(orders) * seen / len(rows))


def packed(members: Sequence[Member], rows: Sequence[EncodedExample], limit: int) -> Iterator[list[Member]]:
    """Members whose micro-batches of mean rows go through the model together: `limit` tokens at most, or a lone one."""
    pack, room = [], 0.0
    for member in members:
        tokens = member.micro_batch * sum(member.width(row) for row in rows) / len(rows)
        if pack and tokens > room:
            yield pack
            pack = []
        room = (room if pack else limit) - tokens
        pack.append(member)
    yield pack


def pass_flops(pack: Sequence[Member], rows: Sequence[EncodedExample]) -> float:
    """FLOPs, forward and backward, of every row once, for all members of a pack."""
    costs = max((member.costs for member in pack), key=lambda costs: costs.token.backward)
    layouts: dict[int, list[list[Member]]] = {}
    total = Flops()
    for row in rows:
        prompt, answer = len(row.prompt), len(row.answer)
        if answer not in layouts:
            layouts[answer] = sequences(pack, row)
        for sequence in layouts[answer]:
            tokens = sum(member.width(row) for member in sequence)
            seen = max(member.start(row) for member in sequence) + tokens
            total += costs.token * tokens + costs.pair * (tokens * seen) + costs.column * (answer * len(sequence))
        for member in pack:
            for (positions, part), edit in member.costs.edits.items():
                end = prompt + answer - 1
                total += edit * edited_tokens(positions, part, prompt, member.start(row), end)
    return total.total


def sequences(pack: Sequence[Member], row: EncodedExample) -> list[list[Member]]:
    """Which members' copies of a row share a sequence."""
    if pack[0].reach is None:
        return [[member] for member in pack]
    copies = [WorkItem(number, 0, member.start(row), row.answer) for number, member in enumerate(pack)]
    grid = side_by_side(copies, [row], 0)
    return [[pack[n] for n in sorted(set(found.tolist())) if n >= 0] for found in grid.copies]


def _pack_bytes(pack: Sequence[Member], row: EncodedExample, text: "PreTrainedConfig", device: torch.device) -> int:
    """Bytes of one pass over micro-batches of rows like this one."""
    costs = max((member.costs for member in pack), key=lambda costs: costs.kept.token)
    laid, rows, prompt = sequences(pack, row), pack[0].micro_batch, len(row.prompt)
    edited: dict = {}
    for member in pack:
        found = edited_of(member.costs, rows, prompt, member.start(row), prompt + len(row.answer) - 1)
        edited |= {key: edited.get(key, 0) + count for key, count in found.items()}
    width = max(sum(member.width(row) for member in sequence) for sequence in laid)
    cached = max(member.start(row) for member in pack)
    batch = Batch(rows * len(laid), width, cached, rows * len(pack) * len(row.answer), edited)
    return pass_bytes(costs, batch, text, device)
