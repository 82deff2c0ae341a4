"""How long a step of each stage takes on this machine: a few are run, on a few rows, and discarded."""

import math
import random
import statistics
import time
from collections.abc import Sequence

from transformers import set_seed

from heft.adapters.attach import attach, check_targets, finish
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

    Medians, without each stage's first step, which warms up. Validation is not counted. `counted` has each stage's
    rows, and what is cached of them when they come more than once.
    """
    base = load_base(recipe.model)
    check_targets(base.model, recipe, base.tokenizer)
    recipe = with_defaults(recipe, Facts(len(counted[0].rows), base.model.num_parameters()))
    whole = {"holdout": 0.0, "evaluate_every": None, "early_stopping": None, "best_checkpoint": False}
    rates = []
    for (name, stage), costs in zip(recipe.stages.items(), counted, strict=True):
        few = random.Random(recipe.seed).sample(costs.rows, min(len(costs.rows), STEPS * stage.batch_size))
        set_seed(recipe.seed)
        attached = attach(base.model, name, stage, base.tokenizer)
        clock = _Clock()
        train_stage(
            base.model,
            name,
            stage.model_copy(update={"steps": None, "epochs": 3.0, **whole}),
            few,
            pad_id=base.tokenizer.pad_token_id,
            seed=recipe.seed,
            reporter=clock,
            attention=base.settings.attention,
        )
        finish(base.model, attached)
        caches = costs.reuse.store != "off"
        epoch = math.ceil(len(costs.rows) / stage.batch_size)
        rates.append(_rate(clock.intervals, math.ceil(len(few) / stage.batch_size), epoch, caches))
    return rates


def _rate(intervals: list[float], tried: int, epoch: int, caches: bool) -> Rate:
    """From the time between each step and the one before it; `tried` steps were an epoch."""
    first = statistics.median(intervals[: max(1, tried - 1)])
    later = statistics.median(intervals[tried:] or intervals)
    return Rate(first, later, epoch) if caches else Rate(*[statistics.median(intervals)] * 2, epoch)


class _Clock(Reporter):
    def __init__(self):
        self.intervals: list[float] = []
        self._last: float | None = None

    def step(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.intervals.append(now - self._last)
        self._last = now
