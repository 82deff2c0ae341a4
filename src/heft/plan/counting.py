"""FLOPs of rows: what a training row costs, plain and with its prefix reused, and what an evaluation costs.

Training rows are counted without padding, which depends on the order of rows; evaluation batches are known and counted
with theirs.
"""

from collections.abc import Sequence

from heft.data import EncodedExample
from heft.evaluation.shared_prefix import Pass, shared_batches
from heft.plan.operations import Costs, Work
from heft.reft.settings import Positions


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


def span(costs: Costs, prompt: int, start: int, end: int, columns: int) -> Work:
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


def evaluation_passes(
    examples: Sequence[EncodedExample], batch_size: int, last_edited: int, share_prefix: bool
) -> list[Pass]:
    """The forward passes of an evaluation of choices; plain rows, one each, where nothing is shared."""
    if share_prefix:
        batches = shared_batches(examples, batch_size, last_edited)
        return [done for batch in batches for done in batch.passes(batch_size)]
    rows = []
    for example in examples:
        if all(len(choice) == 1 for choice in example.choices):
            rows.append(Pass(1, len(example.prompt), 0, 1))
        else:
            rows += [Pass(1, len(example.prompt) + len(c) - 1, 0, len(c)) for c in example.choices]
    return rows


def evaluation_flops(costs: Costs, examples: Sequence[EncodedExample], passes: Sequence[Pass]) -> float:
    """FLOPs of these passes; each prompt's edits are counted once."""
    total = 0.0
    for p in passes:
        token = costs.token.forward * p.columns + costs.pair.forward * p.columns * (p.cached + p.columns)
        total += p.rows * (token + costs.column.forward * p.scored)
    for (positions, part), edit in costs.edits.items():
        total += edit.forward * sum(edited_tokens(positions, part, len(e.prompt), 0, len(e.prompt)) for e in examples)
    return total


def generation_flops(costs: Costs, examples: Sequence[EncodedExample], new_tokens: int) -> float:
    """FLOPs of answers that are generated, at most: each as long as it may be."""
    ends = [len(example.prompt) + new_tokens for example in examples]
    prompts = sum(span(costs, len(e.prompt), 0, len(e.prompt), 1).forward for e in examples)
    return prompts + sum(span(costs, end - new_tokens, end - new_tokens, end, new_tokens).forward for end in ends)
