"""How long a step of each stage takes on this machine: a few are run, on a few rows, and discarded."""

import math
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from transformers import set_seed

from heft.adapters.attach import check_targets, finish
from heft.adapters.existing import begin_stage, take_as_it_is
from heft.costs.stage import StageCosts
from heft.models.load import load_base
from heft.recipe.defaults import Facts, with_defaults
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Reporter
from heft.study.scaling import Rate
from heft.training.stage import train_stage

STEPS = 3
"""Steps of an epoch over the rows that are tried; three such epochs are run."""


def seconds_a_step(recipe: Recipe, counted: Sequence[StageCosts]) -> list[Rate]:
    """Seconds per step of each stage, in its first epoch and, where that caches activations for later ones, after it.

    Medians, but for a first epoch that caches, in which a few steps bring along the rows of others: of that the mean.
    A step before them warms up. Validation is not counted, and what trains nothing takes no time. `counted` has each
    stage's rows, and what is cached of them when they come more than once.
    """
    base = load_base(recipe.model)
    check_targets(base.model, recipe, base.tokenizer)
    recipe = with_defaults(recipe, Facts(len(counted[0].rows), base.model.num_parameters()))
    whole = {"holdout": 0.0, "evaluate_every": None, "early_stopping": None, "best_checkpoint": False}
    rates = []
    for (name, stage), costs in zip(recipe.stages.items(), counted, strict=True):
        if stage.is_frozen:
            take_as_it_is(base.model, name, stage)
            rates.append(Rate(0.0, 0.0, 1))
            continue
        few = random.Random(recipe.seed).sample(costs.rows, min(len(costs.rows), STEPS * stage.batch_size))
        set_seed(recipe.seed)
        attached = begin_stage(base.model, name, stage, base.tokenizer)
        cache = costs.reuse.store  # as the run will have it, for which few rows may have room where all have not
        for length in ({"steps": 1, "epochs": None}, {"steps": None, "epochs": 3.0}):  # the first warms up
            clock = _Clock()
            train_stage(
                base.model,
                name,
                stage.model_copy(update={**length, **whole, "cache": cache}),
                few,
                pad_id=base.tokenizer.pad_token_id,
                seed=recipe.seed,
                reporter=clock,
                attention=base.settings.attention,
            )
        finish(base.model, attached)
        epoch, tried = (math.ceil(len(rows) / stage.batch_size) for rows in (costs.rows, few))
        rates.append(_rate(clock.intervals, tried, epoch, cache != "off", costs.is_filled))
    return rates


def _rate(intervals: list[float], tried: int, epoch: int, caches: bool, is_filled: bool) -> Rate:
    """From the time that each step took; `tried` steps were an epoch."""
    later = statistics.median(intervals[tried:] if caches else intervals)
    return Rate(statistics.fmean(intervals[:tried]) if caches and not is_filled else later, later, epoch)


class _Clock(Reporter):
    def __init__(self):
        self.intervals: list[float] = []

    def progress(self, what: str, total: int) -> AbstractContextManager:
        self._last = time.perf_counter()
        return super().progress(what, total)

    def step(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        self.intervals.append(now - self._last)
        self._last = now
