"""FLOPs of an evaluation. Its batches are known, so they are counted as they will run, padding included."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import PreTrainedModel

from heft.costs.amounts import ModelCosts
from heft.costs.rows import span
from heft.costs.shapes import base_costs
from heft.data.batching import pass_tokens
from heft.data.encode import EncodedExample
from heft.edits.positions import longest_tail
from heft.evaluation.kept import SameEvaluations, same_evaluations
from heft.evaluation.likelihood import plain_rows
from heft.evaluation.shared_prefix import Part, Pass, shared_batches
from heft.models.prefix_states import keeps_plain_keys
from heft.recipe.recipe import Recipe
from heft.tasks import task_for


@dataclass(frozen=True)
class Evaluations:
    """The evaluations of a run, some of which share prefixes.

    Attributes:
        recipe: of the run.
        base: its model, with or without weights, and nothing attached.
        examples: all evaluation rows.
        device: where it computes.
        evaluated: names of those that are done already.
    """

    recipe: Recipe
    base: PreTrainedModel
    examples: Sequence[EncodedExample]
    device: torch.device
    evaluated: Collection[str] = ()

    @cached_property
    def base_costs(self) -> ModelCosts | None:
        """Of one pass of the base; None where it cannot be counted."""
        return base_costs(self.recipe)

    @cached_property
    def _same(self) -> list[SameEvaluations]:
        return same_evaluations(self.recipe, self.examples, self.device)

    def flops(self, name: str, costs: ModelCosts | None) -> float | None:
        """Of the evaluation of that name, where a pass of the evaluated model has these costs; None if they are."""
        same = next((each for each in self._same if name in each.names), None)
        left = [] if same is None else [each for each in same.names if each not in self.evaluated]
        prefixes = None
        if left[:1] == [name]:  # it computes them
            prefixes = self.base_costs if same.of_base else costs
        share = self.recipe.evaluation.share_prefix
        return evaluation_cost(self.recipe, self.base, costs, self.examples, self.device, share, same, prefixes)


def evaluation_cost(
    recipe: Recipe,
    base: PreTrainedModel,
    costs: ModelCosts | None,
    examples: Sequence[EncodedExample],
    device: torch.device,
    share: bool,
    same: SameEvaluations | None = None,
    prefixes: ModelCosts | None = None,
) -> float | None:
    """FLOPs of an evaluation as a recipe has it; None where the model cannot be counted.

    Args:
        base: the model, with or without weights, and nothing attached.
        costs: of one pass, with the adapters that are evaluated.
        share: whether prefixes are shared, where the model allows that.
        same: the evaluations with which this one shares prefixes that are kept; None for none.
        prefixes: costs of a pass that computes those; None where they are there already.
    """
    if costs is None:
        return None
    if not examples[0].choices:
        return generation_flops(costs, examples, task_for(recipe.task).max_new_tokens)
    last_edited = longest_tail(positions for positions, _ in costs.edits)
    tokens = pass_tokens(device, trains=False)
    shares = share and keeps_plain_keys(base)
    kept = same.start if same is not None and shares else None
    flops = evaluation_flops(costs, examples, recipe.evaluation.batch_size, last_edited, shares, tokens, kept)
    if kept is not None and prefixes is not None:
        flops += _prefix_flops(prefixes, recipe, examples, same, tokens)
    return flops


def _prefix_flops(
    costs: ModelCosts,
    recipe: Recipe,
    examples: Sequence[EncodedExample],
    same: SameEvaluations,
    tokens_of_a_pass: int | None,
) -> float:
    """FLOPs of all rows' prefixes."""
    passes = same.prefix_passes(examples, recipe.evaluation.batch_size, tokens_of_a_pass)
    parts = [Part(len(each.prompt), 0, max(0, len(each.prompt) - same.start)) for each in examples]
    return _flops(costs, passes, parts)


def evaluation_flops(
    costs: ModelCosts,
    examples: Sequence[EncodedExample],
    batch_size: int,
    last_edited: int,
    share_prefix: bool,
    tokens_of_a_pass: int | None = None,
    kept: int | None = None,
) -> float:
    """FLOPs of an evaluation of choices, in plain rows, one a pass, where nothing is shared.

    Arguments but the first as for `heft.evaluation.shared_prefix.shared_batches`.
    """
    if share_prefix:
        batches, is_kept = shared_batches(examples, batch_size, last_edited, tokens_of_a_pass, kept), kept is not None
        passes = [done for batch in batches for done in batch.passes(batch_size, is_kept)]
        parts = [part for batch in batches for part in batch.parts(is_kept)]
    else:
        rows = [(each, row) for i, each in enumerate(examples) for row in plain_rows(i, each)]
        passes = [Pass(1, len(ids), 0, 1 if c is None else len(each.choices[c])) for each, (_, c, ids) in rows]
        parts = [Part(len(each.prompt), 0, len(ids)) for each, (_, _, ids) in rows]
    return _flops(costs, passes, parts)


def _flops(costs: ModelCosts, passes: Sequence[Pass], parts: Sequence[Part]) -> float:
    total = 0.0
    for p in passes:
        token = costs.token.forward * p.columns + costs.pair.forward * p.columns * (p.cached + p.columns)
        total += p.rows * (token + costs.column.forward * p.scored)
    for (positions, group), edit in costs.edits.items():
        total += edit.forward * sum(positions.count(part.prompt, part.start, part.end, group) for part in parts)
    return total


def generation_flops(costs: ModelCosts, examples: Sequence[EncodedExample], new_tokens: int) -> float:
    """FLOPs of answers that are generated, at most, each as long as it may be, and of the reference answers' loss."""
    prompts = sum(span(costs, len(e.prompt), 0, len(e.prompt), 1).forward for e in examples)
    steps = new_tokens - 1  # the first comes from the prompt's pass, and nothing reads the last
    answers = sum(span(costs, len(e.prompt), len(e.prompt), len(e.prompt) + steps, steps).forward for e in examples)
    answers -= costs.pair.forward * len(examples) * steps * (steps - 1) / 2  # a token is not compared with later ones
    losses = sum(span(costs, len(e.prompt), 0, e.length - 1, len(e.answer)).forward for e in examples)
    return prompts + answers + losses
