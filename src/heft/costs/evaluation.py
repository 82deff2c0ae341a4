"""FLOPs of an evaluation. Its batches are known, so they are counted as they will run, padding included."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from heft.costs.amounts import ModelCosts
from heft.costs.rows import span
from heft.data.batching import pass_tokens
from heft.data.encode import EncodedExample
from heft.edits.positions import longest_tail
from heft.evaluation.likelihood import plain_rows
from heft.evaluation.shared_prefix import Part, Pass, shared_batches
from heft.models.prefix_states import keeps_plain_keys
from heft.recipe.recipe import Recipe
from heft.tasks import task_for


def evaluation_cost(
    recipe: Recipe,
    base: PreTrainedModel,
    costs: ModelCosts | None,
    examples: Sequence[EncodedExample],
    device: torch.device,
    share: bool,
) -> float | None:
    """FLOPs of an evaluation as a recipe has it; None where the model cannot be counted.

    Args:
        base: the model, with or without weights, and nothing attached.
        costs: of one pass, with the adapters that are evaluated.
        share: whether prefixes are shared, where the model allows that.
    """
    if costs is None:
        return None
    if not examples[0].choices:
        return generation_flops(costs, examples, task_for(recipe.task).max_new_tokens)
    last_edited = longest_tail(positions for positions, _ in costs.edits)
    tokens = pass_tokens(device, trains=False)
    shares = share and keeps_plain_keys(base)
    return evaluation_flops(costs, examples, recipe.evaluation.batch_size, last_edited, shares, tokens)


def evaluation_flops(
    costs: ModelCosts,
    examples: Sequence[EncodedExample],
    batch_size: int,
    last_edited: int,
    share_prefix: bool,
    tokens_of_a_pass: int | None = None,
) -> float:
    """FLOPs of an evaluation of choices, in plain rows, one a pass, where nothing is shared.

    Arguments but the first as for `heft.evaluation.shared_prefix.shared_batches`.
    """
    if share_prefix:
        batches = shared_batches(examples, batch_size, last_edited, tokens_of_a_pass)
        passes = [done for batch in batches for done in batch.passes(batch_size)]
        parts = [part for batch in batches for part in batch.parts()]
    else:
        rows = [(each, row) for i, each in enumerate(examples) for row in plain_rows(i, each)]
        passes = [Pass(1, len(ids), 0, 1 if c is None else len(each.choices[c])) for each, (_, c, ids) in rows]
        parts = [Part(len(each.prompt), 0, len(ids)) for each, (_, _, ids) in rows]
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
