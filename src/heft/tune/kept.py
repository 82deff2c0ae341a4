"""The base's prefixes, computed once for all trials of a search.

What stands before the tokens that a trial's adapters act on is the base's, and the same in every trial. So all rows'
prefixes are computed before the first trial, up to the least reach of all candidates, and each trial takes as much of
each as stands before its own tokens: in training, and when it is measured. What they cost is paid before the arms
begin, so no arm pays for another.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from heft.data.encode import EncodedExample
from heft.models.frozen_linear import frozen_layers_in_onednn
from heft.models.prefix_states import keeps_plain_keys
from heft.recipe.recipe import Stage
from heft.training.reuse.activation_cache import ROWS_PER_PASS
from heft.training.reuse.facts import has_dropout
from heft.training.reuse.shared import RowPrefixes, keeps_prefixes, reach_back

SHARE = 0.25
"""Of a budget, what prefixes may cost; where they cost more, each trial computes those that it needs."""
LEAST_DONE = 0.1
"""Of all tokens, after how many it is judged how long the rest will take."""


def start_behind(before: Mapping[str, Stage], name: str, stages: Sequence[Stage]) -> int | None:
    """Tokens from a prompt's end on which a trial acts, so that it can stand behind the base's prefix; else None.

    Args:
        before: the stages below it.
        name: of its last stage.
        stages: that stage; of several side by side all, whose own reach is not counted.
    """
    if not all(keeps_prefixes(stage) and not stage.bf16 for stage in stages):
        return None
    counted = {**before, name: stages[0]} if len(stages) == 1 else before
    reaches = [reach_back(each, stage) for each, stage in counted.items()]
    return None if None in reaches else max([0, *reaches])


def least_reaching(stages: Iterable[tuple[str, Stage]]) -> tuple[int, str, Stage] | None:
    """The candidate, with its name, that acts on the fewest tokens of those that can stand behind the base's prefixes,
    and how many these are; None where none can."""
    starts = [(start, name, stage) for name, stage in stages if (start := start_behind({}, name, [stage])) is not None]
    return min(starts, key=lambda each: each[0], default=None)


@dataclass(frozen=True)
class SearchPrefixes:
    """All rows' prefixes.

    Attributes:
        base: gives them out.
        seconds: that they took.
    """

    base: RowPrefixes
    seconds: float


@torch.no_grad()
def keep_prefixes(
    model: PreTrainedModel, rows: Sequence[EncodedExample], lacks: int, pad_id: int, at_most: float = math.inf
) -> SearchPrefixes | None:
    """Compute and keep all rows' prefixes.

    Args:
        model: the base, with no adapter on.
        lacks: tokens from a prompt's end that are not kept.
        at_most: seconds.

    Returns:
        them; None where the model's prefixes cannot be kept, there is no room, or it would take longer.
    """
    if not keeps_plain_keys(model) or has_dropout(model):
        return None
    started, base = time.perf_counter(), RowPrefixes(rows, lacks, ROWS_PER_PASS)
    with frozen_layers_in_onednn(model, True):
        reuse = base.reuse(model, lacks, pad_id)
        lengths = [reuse.cached_length(row) for row in range(len(rows))]
        whole, done = sum(lengths), 0
        if base.make_room(model, pad_id) == "off":
            return None
        reuse = base.reuse(model, lacks, pad_id)
        for row in sorted(range(len(rows)), key=lengths.__getitem__, reverse=True):
            reuse.activations_of([row])  # and of the rows that are computed with it
            done, seconds = done + lengths[row], time.perf_counter() - started
            if seconds * whole > at_most * max(done, whole * LEAST_DONE):
                base.close()
                return None
    return SearchPrefixes(base, seconds)
