"""Settings of a stage's training, whatever it trains."""

import math
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from heft.settings.base import Settings

MOST_EPOCHS = 20.0
"""Passes that a stage with `until` takes at most, where neither its epochs nor its steps are given."""


class Plateau(Settings):
    """When the held-back loss counts as falling no more."""

    patience: int = Field(default=2, ge=1)
    """Held-back evaluations in a row without a gain that end the stage."""
    minimum_gain: float = Field(default=0.01, ge=0.0)
    """How far the held-back loss must fall below its lowest so far to count as a gain, in nats an answer token."""


class Until(Settings):
    """What ends a stage before its steps or epochs do. `until: plateau` takes the defaults."""

    plateau: Plateau
    """The held-back loss falls no more; the mapping's keys are `patience` and `minimum_gain`."""

    @model_validator(mode="before")
    @classmethod
    def _in_a_word(cls, value: Any) -> Any:
        return {"plateau": {}} if value == "plateau" else value


class TrainingSettings(Settings):
    """How a stage is trained."""

    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the training rows held back from training to watch the loss on; never the evaluation split."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Optimiser steps between two evaluations of the held-back rows; null means once an epoch."""
    until: Until | None = None
    """End the stage when the held-back loss stops falling: `plateau`, or {plateau: {patience: 2, minimum_gain: 0.01}}.
    Its steps or epochs are then the most that it takes, and what the schedule of the learning rate is made for."""
    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps to take; give this or epochs."""
    epochs: float | None = Field(
        default_factory=lambda data: None if data.get("steps") else MOST_EPOCHS if data.get("until") else 1.0,
        gt=0,
        validate_default=True,
        json_schema_extra={"default_in_words": f"1, {MOST_EPOCHS:.0f} with `until`, or null where steps is given"},
    )
    """Passes over the training rows; a fraction is fine; give this or steps."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Learning rate at the end of the warmup."""
    batch_size: int = Field(default=16, ge=1)
    """Examples per optimiser step."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Examples per forward pass, a divisor of batch_size; smaller needs less memory; null means batch_size."""
    warmup: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the learning rate after the warmup; linear and cosine end at 0."""
    optimizer: Literal["adamw", "adafactor", "sgd"] = "adamw"
    """Optimiser of the trained weights."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay of the trained weights."""
    max_grad_norm: float = Field(default=1.0, ge=0.0)
    """Gradients with a larger norm are scaled down to it; 0 leaves them alone."""
    bf16: bool = False
    """Mixed precision (TRL: `bf16`): a base in float32, whose products autocast rounds to bfloat16. Over a base that is
    in bfloat16 already (model.dtype) only LoRA layers that `fused` does not take compute otherwise than without it."""
    fused: bool = True
    """Compute plain LoRA layers (a frozen linear module, no dropout, no dora) forward and backward in one function
    each, in the base's dtype, instead of PEFT's operation by operation: the same to rounding, faster. Trained weights
    and saved files are PEFT's either way."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time, same gradients."""
    best_checkpoint: bool = False
    """Keep the weights of the lowest held-back loss instead of the last ones."""
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)
    """Seed of this stage's initial weights, dropout and order of rows; null means the recipe's seed plus the number of
    stages before this one. Which rows are held back always follows from the recipe's seed."""

    @field_validator("epochs")
    @classmethod
    def _one_length_is_given(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is None and info.data.get("steps", 1) is None:
            raise ValueError("both epochs and steps are null; give one of them")
        if value is not None and info.data.get("steps") is not None:
            raise ValueError(f"give epochs or steps, not both (steps is {info.data['steps']}); set the other to null")
        return value

    @field_validator("steps", "epochs")
    @classmethod
    def _a_plateau_can_show(cls, value: float | None, info: ValidationInfo) -> float | None:
        until, every = info.data.get("until"), info.data.get("evaluate_every")
        if value is None or until is None or (every is None) != (info.field_name == "epochs"):
            return value
        looks = math.ceil(value) if every is None else value // every
        if looks <= until.plateau.patience:
            raise ValueError(
                f"{value:g} {info.field_name} hold {looks:.0f} held-back evaluations, too few for until: plateau with"
                f" patience {until.plateau.patience}; give more, or a smaller evaluate_every"
            )
        return value

    @field_validator("micro_batch_size")
    @classmethod
    def _micro_batches_fill_the_batch(cls, value: int | None, info: ValidationInfo) -> int | None:
        batch_size = info.data.get("batch_size")
        if value is not None and batch_size is not None and batch_size % value:
            raise ValueError(f"batch_size {batch_size} is not a multiple of micro_batch_size {value}")
        return value

    @field_validator("evaluate_every", "until", "best_checkpoint")
    @classmethod
    def _something_is_held_back(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("holdout") == 0:
            raise ValueError(f"{info.field_name} needs rows that are held back; set holdout, such as 0.05")
        return value


class CheckpointSettings(Settings):
    """When a run keeps where it is, so that `heft train RECIPE --resume` can go on from there."""

    every_minutes: float | None = Field(default=5.0, gt=0)
    """Minutes of training between two checkpoints; null means none by the clock. The end of a stage always is one."""
    every_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps between two checkpoints; null means none by steps."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints within a stage that are kept, the newest ones; all go when the run is finished."""


def held_back_rows(share: float, rows: int) -> int:
    """How many of so many rows a `holdout` holds back: at least one, if it is above 0."""
    return max(1, round(share * rows)) if share else 0
