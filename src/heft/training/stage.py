"""The course of one stage, top to bottom."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from heft.data.encode import EncodedExample
from heft.recipe.recipe import JointStage, Stage
from heft.recipe.training import TrainingSettings, held_back_rows
from heft.runtime import distributed, signals
from heft.runtime.reporter import Reporter
from heft.training.attention import attention_for_training
from heft.training.checked_loss import require_an_effect
from heft.training.checkpointing import Course, Keeping
from heft.training.early_stopping import HeldBack
from heft.training.fused_lora import fused_lora
from heft.training.guards import is_flat
from heft.training.peak import PeakMemory
from heft.training.reuse.decide import loss_for, may_be_fused
from heft.training.trainer import Rows, StageTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FORWARDS = ("forward", "_original_forward")
_OPTIMIZERS = {"adamw": "adamw_torch_fused", "adafactor": "adafactor", "sgd": "sgd"}


@dataclass(frozen=True)
class StageOutcome:
    """What a stage took.

    Attributes:
        steps: optimiser steps taken.
        seconds: of training alone.
        tokens: real tokens (no padding) that went through the model.
        ended: "planned", with all its steps, or "plateau", before them.
        ended_because: the same in a sentence, with the figures.
        peak_bytes: see heft.training.peak; None where it is unknown.
        reuses: whether steps computed less than every token in every layer (see heft.training.reuse.decide).
    """

    steps: int
    seconds: float
    tokens: int
    ended: str
    ended_because: str
    peak_bytes: int | None
    reuses: bool


def planned_steps(settings: TrainingSettings, rows: int) -> int:
    """Optimiser steps of a stage over that many training rows."""
    if settings.steps is not None:
        return settings.steps
    return max(1, math.ceil(settings.epochs * math.ceil(rows / settings.batch_size)))


def hold_back(examples: Sequence[EncodedExample], share: float, seed: int) -> tuple[list, list]:
    """Split into rows to train on and rows held back (at least one, if `share` is above 0), by a seeded shuffle."""
    if not share:
        return list(examples), []
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    count = held_back_rows(share, len(examples))
    return [examples[i] for i in sorted(order[count:])], [examples[i] for i in sorted(order[:count])]


def train_stage(
    model: "PreTrainedModel",
    name: str,
    stage: Stage,
    examples: Sequence[EncodedExample],
    *,
    pad_id: int,
    seed: int,
    reporter: Reporter,
    holdout_seed: int | None = None,
    keeping: Keeping | None = None,
    attention: str = "auto",
) -> StageOutcome:
    """Train what requires gradients in `model` as the stage says.

    Args:
        model: with the stage's adapters attached and marked as trainable.
        name: of the stage, for the reports.
        stage: its settings.
        examples: the training rows; a part is held back where the stage asks for it.
        pad_id: id of the padding token.
        seed: of the order of rows and of dropout.
        reporter: is told of every logged step and held-back evaluation.
        holdout_seed: of what is held back; None for `seed`.
        keeping: how it is kept on the way; None for not at all.
        attention: model.attention of the recipe.

    Raises:
        HeftError: no weight that trains has a part in the answers.
        Diverged: a loss or a gradient is not finite, and the weights are those before that step; or the last step has
            left weights that cannot be used.
        Stopped: a signal has asked for an end; the stage was kept after its last step.
    """
    peak = PeakMemory(model.device)
    rows, held_back = hold_back(examples, stage.holdout, seed if holdout_seed is None else holdout_seed)
    steps = planned_steps(stage, len(rows))
    uses = steps * stage.batch_size / len(rows)
    watch = HeldBack(stage)
    course = Course(watch, peak, steps, keeping)
    follower = _Follower(name, steps, reporter)
    callbacks = [follower, *([watch] if held_back else []), *course.callbacks]
    require_an_effect(model, name, [*rows, *held_back], pad_id)
    with _as_it_trains(model, stage, attention, [*rows, *held_back], pad_id, reporter) as scratch:
        loss = loss_for(model, stage, rows + held_back, pad_id, uses, Path(scratch), reporter)
        trainer = StageTrainer(
            model,
            training_arguments(stage, steps, len(rows), seed, scratch, on_cpu=model.device.type == "cpu"),
            train_dataset=Rows(rows),
            eval_dataset=Rows(held_back, first_id=len(rows)) if held_back else None,
            callbacks=callbacks,
            pad_id=pad_id,
            loss=loss.compute,
            reft_learning_rate=stage.reft_learning_rate if isinstance(stage, JointStage) else None,
            stage=name,
            on_halved=partial(follower.on_halved, stage.batch_size),
            keep=course.keep,
            start=course.start,
        )
        trainer.remove_callback(PrinterCallback)
        set_seed(seed)
        with reporter.progress(name, steps):
            course.train(trainer)
    if trainer.state.global_step < steps and watch.plateau is None:
        raise signals.Stopped
    return _outcome(trainer, steps, watch, course, loss.reuses)


def _outcome(trainer: StageTrainer, steps: int, watch: HeldBack, course: Course, reuses: bool) -> StageOutcome:
    taken = trainer.state.global_step
    return StageOutcome(
        steps=taken,
        seconds=course.seconds(),
        tokens=int(trainer.state.num_input_tokens_seen),
        ended="plateau" if taken < steps else "planned",
        ended_because=watch.plateau if taken < steps else f"all {steps:,} steps were taken",
        peak_bytes=course.peak_bytes(),
        reuses=reuses,
    )


@contextmanager
def _as_it_trains(
    model: "PreTrainedModel",
    stage: Stage,
    attention: str,
    rows: Sequence[EncodedExample],
    pad_id: int,
    reporter: Reporter,
) -> Iterator[str]:
    """The model in the faster of equal ways to compute, which end with the stage; a folder for the Trainer."""
    with (
        attention_for_training(model, attention, rows),
        fused_lora(model, stage.fused and may_be_fused(model, rows, pad_id, reporter)),
        _forward_left_as_it_is(model),
        tempfile.TemporaryDirectory(prefix="heft-") as scratch,
    ):
        yield scratch


@contextmanager
def _forward_left_as_it_is(model: "PreTrainedModel") -> Iterator[None]:
    """Take off at the end what would outlive the stage and meet the next one: accelerate's own forward, for bf16, and
    checkpointing of activations, for which transformers keeps no keys and values either.
    """
    before = {name: model.__dict__[name] for name in _FORWARDS if name in model.__dict__}
    use_cache = getattr(model.config, "use_cache", None)
    try:
        yield
    finally:
        for name in _FORWARDS:
            model.__dict__.pop(name, None)
        model.__dict__.update(before)
        if use_cache is not None:
            model.config.use_cache = use_cache
        model.activation_checkpointing_disable()


def training_arguments(
    stage: TrainingSettings, steps: int, rows: int, seed: int, scratch: str, on_cpu: bool
) -> TrainingArguments:
    """A stage's settings in the Trainer's words, for `steps` optimiser steps over that many training rows.

    With several processes `per_device_train_batch_size` is what they take together (see StageTrainer).
    """
    micro = stage.micro_batch_size or stage.batch_size
    passes = _passes(stage.batch_size, micro * distributed.count())
    steps_an_epoch = math.ceil(rows / stage.batch_size)
    arguments = TrainingArguments(
        output_dir=scratch,
        use_cpu=on_cpu,
        max_steps=steps,
        per_device_train_batch_size=stage.batch_size // passes,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=passes,
        train_sampling_strategy="group_by_length",
        learning_rate=stage.learning_rate,
        lr_scheduler_type="constant_with_warmup" if stage.schedule == "constant" else stage.schedule,
        warmup_steps=round(stage.warmup * steps),
        optim=_OPTIMIZERS[stage.optimizer],
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        bf16=stage.bf16,
        activation_checkpointing=stage.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps" if stage.holdout else "no",
        eval_steps=stage.evaluate_every or steps_an_epoch,
        save_strategy="no",
        logging_steps=max(1, steps // 100),
        logging_first_step=True,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        remove_unused_columns=False,
        ddp_broadcast_buffers=False,  # they are constants, and processes may take unlike many forward passes
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        seed=seed,
        data_seed=seed,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one process, one device: never the Trainer's DataParallel
    return arguments


def _passes(batch_size: int, most: int) -> int:
    """The fewest equal passes that make up a batch, of at most `most` rows each."""
    return next(n for n in range(math.ceil(batch_size / most), batch_size + 1) if batch_size % n == 0)


class _Follower(TrainerCallback):
    """Passes the Trainer's news on to the reporter, and says when a loss stays where it is."""

    def __init__(self, stage: str, steps: int, reporter: Reporter):
        self._stage, self._steps, self._reporter = stage, steps, reporter

    def on_step_end(self, args, state, control, **kwargs):
        self._reporter.step(self._stage, state.global_step, self._steps)

    def on_log(self, args, state, control, logs=None, **kwargs):
        kept = ("loss", "eval_loss", "grad_norm", "learning_rate", "epoch")
        values = {key: logs[key] for key in kept if key in logs}
        if "loss" in values or "eval_loss" in values:
            self._reporter.metrics({"stage": self._stage, "step": state.global_step, **values})

    def on_halved(self, batch_size: int, what: str, rows: int) -> None:
        if what == "training":
            text = f"out of memory; going on with {rows} rows a pass, {batch_size} a step as before"
        else:
            text = f"out of memory in the held-back evaluation; going on with {rows} rows a pass"
        self._reporter.note(f"{self._stage}: {text}")

    def on_train_end(self, args, state, control, **kwargs):
        stays = is_flat([entry["loss"] for entry in state.log_history if "loss" in entry])
        if stays is not None:
            self._reporter.note(
                f"the loss of stage {self._stage} has not moved: {stays}; a higher learning_rate, a larger rank or"
                " other positions may move it"
            )
