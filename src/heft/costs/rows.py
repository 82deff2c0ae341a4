"""FLOPs of a training row: plain, or without what is reused; without padding, which depends on the order of rows."""

from heft.costs.operations import Costs, Flops
from heft.data.encode import EncodedExample
from heft.settings.reft import Positions


def plain_row(costs: Costs, row: EncodedExample, recomputes: bool = False) -> float:
    """FLOPs of a training row, forward and backward.

    Args:
        costs: of the model in training.
        row: prompt and answer; logits stand at the answer's tokens only.
        recomputes: whether blocks run again in the backward pass (gradient checkpointing).
    """
    prompt, total = len(row.prompt), len(row.prompt) + len(row.answer)
    again = span(costs, prompt, 0, total, 0).forward if recomputes else 0.0
    return span(costs, prompt, 0, total, len(row.answer)).total + again


def suffix_row(costs: Costs, row: EncodedExample, reach: int) -> float:
    """FLOPs of a training row from its first edited token on, `reach` tokens before the prompt's end."""
    prompt, total = len(row.prompt), len(row.prompt) + len(row.answer)
    return span(costs, prompt, prompt - reach, total, len(row.answer)).total


def prefix_row(costs: Costs, row: EncodedExample, reach: int) -> float:
    """FLOPs of the tokens before the first edited one, without gradients."""
    return span(costs, len(row.prompt), 0, len(row.prompt) - reach, 0).forward


def upper_row(costs: Costs, row: EncodedExample) -> float:
    """FLOPs of a training row without the layers that `costs.lower` counts."""
    return plain_row(costs, row) - lower_row(costs, row)


def lower_row(costs: Costs, row: EncodedExample) -> float:
    """FLOPs of a row in the layers that `costs.lower` counts, where nothing trains."""
    total = len(row.prompt) + len(row.answer)
    return span(costs.lower, len(row.prompt), 0, total, 0).forward


def span(costs: Costs, prompt: int, start: int, end: int, columns: int) -> Flops:
    """FLOPs of a row's tokens `start` to `end`, those before them in the cache, with logits in `columns` places."""
    tokens = end - start
    work = costs.token * tokens + costs.pair * (tokens * end) + costs.column * columns
    for (positions, part), edit in costs.edits.items():
        work += edit * edited_tokens(positions, part, prompt, start, end)
    return work


def edited_tokens(positions: Positions, part: str, prompt: int, start: int, end: int) -> int:
    """How many of a row's tokens `start` to `end` are edited by one part (see heft.reft.positions)."""
    if positions.every:
        return end - start
    first = min(positions.first, prompt)
    last = max(prompt - positions.last, first)
    spans = {"first": [(0, first)], "last": [(last, prompt)], "shared": [(0, first), (last, prompt)]}[part]
    return sum(max(0, min(end, b) - max(start, a)) for a, b in spans)
