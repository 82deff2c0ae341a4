"""A trial: a complete recipe with a validation set, and what came of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heft.recipe.recipe import Recipe, Stage

COARSE, FINE, BOTH = "coarse", "fine", "both"
"""Names of stages: the first of two or LoRA alone, the second or ReFT alone, and LoRA and ReFT at once."""


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Attributes:
        key: 16 hex digits of the stages, by which a resumed search knows it.
        kind: "lora", "reft" or "joint", the method of its last stage.
        stages: its stages as a recipe has them, validation share included.
        values: what was tried in the last one.
        loss: of the validation rows (heft.tune.measure): with choices the expected share of wrong answers, else the
            mean of −ln p of an answer token; None where it diverged.
        accuracy: share of the validation rows that are answered correctly; None where answers are generated, or there
            are too many choices to score all.
        row_losses: of each validation row: 1 − p of the right choice, or −ln p of the answer.
        seed_losses, seed_accuracies: where this stands for a trial and its repeats (heft.tune.repeats), those of each;
            `loss` and `accuracy` are then means over them, and `row_losses` those of the trial's rows, then of each
            repeat's.
        seconds: all that the last stage took in the search: training, measuring, attaching; shared out where it was
            trained side by side with others.
        trained_seconds: those of them that were training.
        trying_seconds: those of them in which fast paths were compared with the plain one, once for trials of a kind.
        flops: of training the last stage in the search, shared out likewise.
        training_seconds: of training the last stage alone; None where it was trained side by side.
        training_flops: of training the last stage alone.
        prefix_seconds, prefix_flops: those of them that are of prefixes, where the search keeps these for all trials.
        before_seconds, before_flops: the same of the stage before it.
        before_is_estimated: whether those seconds are, since that stage was trained side by side with others.
        together: how many were trained side by side.
        behind: whether its last stage acts on last positions only, so that few tokens run in a step.
        steps: optimizer steps of the last stage.
    """

    key: str
    kind: str
    stages: dict[str, Any]
    values: dict[str, Any]
    loss: float | None
    accuracy: float | None
    row_losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    trained_seconds: float = 0.0
    trying_seconds: float = 0.0
    flops: float = 0.0
    training_seconds: float | None = None
    training_flops: float = 0.0
    prefix_seconds: float = 0.0
    prefix_flops: float = 0.0
    before_seconds: float = 0.0
    before_flops: float = 0.0
    before_is_estimated: bool = False
    together: int = 1
    behind: bool = False
    steps: int = 0
    seed_losses: list[float] = field(default_factory=list)
    seed_accuracies: list[float] = field(default_factory=list)

    @property
    def diverged(self) -> bool:
        """Whether a loss, a gradient or a weight was not finite."""
        return self.loss is None

    @property
    def batch_size(self) -> int:
        """Rows of a step of the last stage."""
        *_, stage = self.stages.values()
        return stage["batch_size"]

    @property
    def is_repeat(self) -> bool:
        """Whether another trial was trained again (heft.tune.repeats)."""
        *_, stage = self.stages.values()
        return stage["seed"] is not None

    def spent(self, unit: str) -> float:
        """What the search paid for it, in "seconds" or "flops"."""
        return self.seconds if unit == "seconds" else self.flops

    @property
    def whole_flops(self) -> float:
        """FLOPs of training the whole recipe alone."""
        return self.before_flops + self.training_flops

    @property
    def whole_seconds(self) -> float | None:
        """Seconds of the same; None where they were not measured."""
        if self.training_seconds is None or self.before_is_estimated:
            return None
        return self.before_seconds + self.training_seconds


def sized(stage: Stage, steps: int, holdout: float, **changes: Any) -> Stage:
    """A stage that trains so many steps and is measured at its end, on validation rows that no stage trains on."""
    length = {"steps": steps, "epochs": None, "evaluate_every": steps if holdout else None, "holdout": holdout}
    whole = {"early_stopping": None, "best_checkpoint": False, "seed": None}
    return stage.model_copy(update={**length, **whole, **changes})


def unmeasured(stage: Stage) -> Stage:
    """A stage that trains on all rows that it is given."""
    return stage.model_copy(update={"holdout": 0.0, "evaluate_every": None})


def file_name(arm: str) -> str:
    """An arm's name as one of a file, a run and a study's arm: `lora-reft`."""
    return arm.replace("+", "-")


def recipe_of_stages(recipe: Recipe, stages: Mapping[str, Stage], name: str | None = None) -> Recipe:
    """A recipe with other stages, for `heft train`."""
    own = {"stages": dict(stages), "tune": None, "sweep": None, "output": None}
    return recipe.model_copy(update=own | ({"name": name} if name else {}))


def dumped(stages: Mapping[str, Stage]) -> dict[str, Any]:
    """Stages as plain values, from which they can be read again."""
    return {name: {"method": stage.method, **stage.model_dump(mode="json")} for name, stage in stages.items()}


def key_of(stages: Mapping[str, Stage]) -> str:
    """16 hex digits of the SHA-256 of stages as plain values."""
    return hashlib.sha256(json.dumps(dumped(stages), sort_keys=True).encode()).hexdigest()[:16]
