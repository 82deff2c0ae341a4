"""Settings of a stage's training, whatever it trains."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from heft.errors import HeftError
from heft.settings.base import Settings
from heft.text.units import several

MOST_EPOCHS = 20.0
"""Epochs that a stage with `early_stopping` takes at most, where neither its epochs nor its steps are given."""


class EarlyStoppingSettings(Settings):
    """When a stage ends before its steps or epochs do (transformers: `EarlyStoppingCallback`).

    `early_stopping: true` takes the defaults.
    """

    patience: int = Field(default=2, ge=1)
    """Validation evaluations in a row without an improvement that end the stage (`early_stopping_patience`)."""
    min_delta: float = Field(default=0.01, ge=0.0)
    """How far the validation loss must fall below its lowest so far to count as an improvement, in nats per answer
    token (`early_stopping_threshold`)."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_for_true(cls, value: Any) -> Any:
        if value is not True and not isinstance(value, dict | cls):
            raise ValueError("give true, a mapping with the keys patience and min_delta, or null")
        return {} if value is True else value


DECAY = 0.2
"""Share of the steps of `decay: null`, where the schedule has one."""
Auto = Literal["auto"]
"""A number that follows from the rows and the model, by the rules of heft.recipe.defaults."""


def _default_epochs(data: dict[str, Any]) -> float | str | None:
    if data.get("steps"):
        return None
    return MOST_EPOCHS if data.get("early_stopping") else None if data.get("from_") else "auto"


class TrainingSettings(Settings):
    """How a stage is trained. Names in parentheses are those of transformers' TrainingArguments."""

    holdout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Fraction of the training set used as validation rows, rows of one text or question together; the evaluation split
    is never used."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Optimizer steps between two validation evaluations (`eval_steps`); null means once an epoch."""
    early_stopping: EarlyStoppingSettings | None = None
    """End the stage when the validation loss stops falling: `true`, or {patience: 2, min_delta: 0.01}. Its steps or
    epochs are then the most that it takes, and what the learning-rate schedule is made for."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps to take (`max_steps`); give this or epochs."""
    epochs: Annotated[float, Field(gt=0)] | Auto | None = Field(
        default_factory=lambda data: _default_epochs(data),
        validate_default=True,
        json_schema_extra={
            "default_in_words": f"`auto`, {MOST_EPOCHS:.0f} with `early_stopping`, or null where steps or from is given"
        },
    )
    """Passes over the training rows (`num_train_epochs`); a fraction is fine; give this or steps. auto follows from the
    number of rows (docs/defaults.md)."""
    learning_rate: Annotated[float, Field(gt=0)] | Auto = "auto"
    """Learning rate at the end of the warmup (`learning_rate`). auto follows from the method and the size of the model
    (docs/defaults.md)."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per optimizer step (`per_device_train_batch_size` × `gradient_accumulation_steps` × processes)."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows per forward pass, a divisor of batch_size (`per_device_train_batch_size`); smaller needs less memory; null
    means batch_size."""
    warmup: float = Field(default=0.1, ge=0.0, le=1.0)
    """Fraction of the steps over which the learning rate rises from 0 (`warmup_ratio`)."""
    schedule: Literal["linear", "cosine", "constant", "warmup_stable_decay"] = "linear"
    """Learning-rate schedule after the warmup (`lr_scheduler_type`). linear and cosine fall to 0 all the way;
    warmup_stable_decay is constant and falls to 0 at the end, linearly."""
    decay: float | None = Field(default=None, gt=0.0, le=1.0)
    """Fraction of the steps over which the learning rate falls with warmup_stable_decay (`num_decay_steps`); null means
    0.2 there."""
    optimizer: Literal["adamw", "adafactor", "sgd"] = "adamw"
    """Optimizer of the trained weights (`optim`)."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay of the trained weights, but for rotations and biases (`weight_decay`)."""
    max_grad_norm: float = Field(default=1.0, ge=0.0)
    """Gradients with a larger norm are scaled down to it (`max_grad_norm`); 0 turns clipping off."""
    bf16: bool = False
    """Mixed precision (`bf16`): a base in float32, whose products autocast rounds to bfloat16. Over a base that is in
    bfloat16 already (model.dtype) it changes only LoRA layers that `fused` does not take."""
    fused: bool = True
    """Compute plain LoRA layers (a frozen linear module, no dropout, no dora) forward and backward in one function
    each, in the base's dtype, instead of PEFT's operation by operation, and frozen layers in oneDNN where MKL leaves
    AVX-512 unused (float32 on a CPU that is not Intel's): the same to rounding, faster. Trained weights and saved files
    are PEFT's either way."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass (`gradient_checkpointing`): less memory, more time, same gradients."""
    reuse: bool = True
    """Cache activations that training cannot change: the prompt prefix (positions `lN` or `lN+`) or the layers below
    the first that trains. Same result, faster."""
    cache: Literal["auto", "memory", "disk", "off"] = "auto"
    """Where cached activations are stored between epochs; auto takes memory up to a quarter of what is free, then disk
    up to half of what is free; off computes them at every step."""
    best_checkpoint: bool = False
    """Use the weights of the lowest validation loss instead of the last ones (`load_best_model_at_end`)."""
    seed: int | None = Field(default=None, ge=0, le=2**32 - 1)
    """Seed of this stage's initial weights, dropout and order of rows (`seed`, `data_seed`); null means the recipe's
    seed plus the number of stages before this one, modulo 2^32. The choice of validation rows always follows the
    recipe's seed."""

    @field_validator("epochs")
    @classmethod
    def _one_length_is_given(cls, value: float | str | None, info: ValidationInfo) -> float | str | None:
        if value is None and info.data.get("steps", 1) is None and info.data.get("from_") is None:
            raise ValueError("both epochs and steps are null; give one of them")
        if value is not None and info.data.get("steps") is not None:
            raise ValueError(f"give epochs or steps, not both (steps is {info.data['steps']}); set the other to null")
        return value

    @field_validator("steps", "epochs")
    @classmethod
    def _can_stop_early(cls, value: float | str | None, info: ValidationInfo) -> float | str | None:
        stopping, every = info.data.get("early_stopping"), info.data.get("evaluate_every")
        if value in (None, "auto") or stopping is None or (every is None) != (info.field_name == "epochs"):
            return value
        evaluations = math.ceil(value) if every is None else value // every
        if evaluations <= stopping.patience:
            raise ValueError(
                f"{value:g} {info.field_name} hold {evaluations:.0f} validation evaluations, too few for early_stopping"
                f" with patience {stopping.patience}; give more, or a smaller evaluate_every"
            )
        return value

    @field_validator("decay")
    @classmethod
    def _a_decay_has_its_schedule(cls, value: float | None, info: ValidationInfo) -> float | None:
        schedule, warmup = info.data.get("schedule"), info.data.get("warmup", 0.0)
        if value is not None and schedule not in (None, "warmup_stable_decay"):
            raise ValueError(f"is for schedule warmup_stable_decay, and schedule is {schedule}; set decay to null")
        if value is not None and warmup + value > 1.0:
            raise ValueError(f"warmup {warmup:g} and decay {value:g} are more than all steps; give less of one")
        return value

    @field_validator("micro_batch_size")
    @classmethod
    def _micro_batches_fill_the_batch(cls, value: int | None, info: ValidationInfo) -> int | None:
        batch_size = info.data.get("batch_size")
        if value is not None and batch_size is not None and batch_size % value:
            raise ValueError(f"batch_size {batch_size} is not a multiple of micro_batch_size {value}")
        return value

    @field_validator("evaluate_every", "early_stopping", "best_checkpoint")
    @classmethod
    def _needs_validation_rows(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("holdout") == 0:
            raise ValueError(f"{info.field_name} needs validation rows; set holdout, such as 0.05")
        return value

    @property
    def source(self) -> str | None:
        """Where the adapter comes from that the stage starts with; None where it starts with a new one."""
        return getattr(self, "from_", None)

    @property
    def is_frozen(self) -> bool:
        """Whether the stage takes an adapter that exists as it is, and trains nothing."""
        return self.source is not None and self.steps is None and self.epochs is None


class CheckpointSettings(Settings):
    """Checkpointing of a run in progress, from which `heft train RECIPE --resume` continues."""

    every_minutes: float | None = Field(default=5.0, gt=0)
    """Minutes of training between two checkpoints; null means none by the clock. The end of a stage always writes
    one."""
    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between two checkpoints (`save_steps`); null means none by steps."""
    keep: int = Field(default=2, ge=1)
    """The newest checkpoints within a stage that are kept (`save_total_limit`); all are removed when the run is
    finished."""

    def is_due(self, step: int, seconds: float) -> bool:
        """Whether to write one after this step, so many seconds after the last one."""
        by_the_clock = self.every_minutes is not None and seconds >= 60 * self.every_minutes
        return by_the_clock or (self.every_steps is not None and step % self.every_steps == 0)


def validation_rows_of(share: float, rows: int) -> int:
    """How many of so many rows a `holdout` makes validation rows, at most where rows belong together
    (heft.data.validation): at least one, if it is above 0."""
    return max(1, round(share * rows)) if share else 0


def require_trained_rows(setting: str, share: float, rows: int) -> None:
    """Raise a HeftError where a `holdout`, called `setting`, leaves none of so many rows to train on."""
    if validation_rows_of(share, rows) >= rows:
        raise HeftError(f"{setting} {share:g} of {several(rows, 'row')} leaves none to train on")
