"""FLOPs of a training row: plain, or without what is reused; without padding, which depends on the order of rows."""

from heft.costs.amounts import Flops, ModelCosts
from heft.data.encode import EncodedExample


def plain_row(costs: ModelCosts, row: EncodedExample, recomputes: bool = False) -> float:
    """FLOPs of a training row, forward and backward, with logits at the answer's tokens only.

    `recomputes`: blocks run again in the backward pass (gradient checkpointing), which ends above the layers that
    `costs.lower` counts. The lowest that is edited is counted in full, though only what follows its edit may run again.
    """
    prompt, total = len(row.prompt), row.length
    work = span(costs, prompt, 0, total, len(row.answer)).total
    if not recomputes:
        return work
    return work + span(costs, prompt, 0, total, 0).forward - (lower_row(costs, row) if costs.lower else 0.0)


def suffix_row(costs: ModelCosts, row: EncodedExample, suffix: int) -> float:
    """FLOPs of a training row from its first edited token on, `suffix` tokens before the prompt's end."""
    prompt, total = len(row.prompt), row.length
    return span(costs, prompt, prompt - suffix, total, len(row.answer)).total


def prefix_row(costs: ModelCosts, row: EncodedExample, suffix: int) -> float:
    """FLOPs of the tokens before the first edited one, without gradients."""
    return span(costs, len(row.prompt), 0, len(row.prompt) - suffix, 0).forward


def upper_row(costs: ModelCosts, row: EncodedExample) -> float:
    """FLOPs of a training row without the layers that `costs.lower` counts."""
    return plain_row(costs, row) - lower_row(costs, row)


def lower_row(costs: ModelCosts, row: EncodedExample) -> float:
    """FLOPs of a row in the layers that `costs.lower` counts, where nothing trains."""
    return span(costs.lower, len(row.prompt), 0, row.length, 0).forward


def span(costs: ModelCosts, prompt: int, start: int, end: int, columns: int) -> Flops:
    """FLOPs of a row's tokens `start` to `end`, those before them in the cache, with logits in `columns` places."""
    tokens = end - start
    work = costs.token * tokens + costs.attention(tokens, tokens, start) + costs.column * columns
    for (positions, group), edit in costs.edits.items():
        work += edit * positions.count(prompt, start, end, group)
    return work
