"""The training of one stage, top to bottom."""

import math
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from heft.data.encode import EncodedExample
from heft.data.validation import split_validation
from heft.models.frozen_linear import frozen_layers_in_onednn
from heft.recipe.recipe import Stage
from heft.recipe.training import TrainingSettings
from heft.runtime.reporter import Reporter
from heft.training.attention import attention_for_training
from heft.training.batches import TrainingData
from heft.training.checked_loss import require_an_effect
from heft.training.checkpointing import CheckpointPlan
from heft.training.fused_lora import fused_lora
from heft.training.guards import flat_loss_note
from heft.training.loop import TrainingLoop
from heft.training.modes import repeatable
from heft.training.peak import PeakMemory
from heft.training.reuse.decide import loss_for, may_be_fused
from heft.training.reuse.shared import StagePrefixes


@dataclass(frozen=True)
class StageOutcome:
    """What training a stage took.

    Attributes:
        steps: optimizer steps taken.
        seconds: of training alone.
        tokens: real tokens (no padding) that went through the model.
        ended: "planned", after all its steps, or "early_stopping", before them.
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
    """Optimizer steps of a stage over that many training rows; 0 where it is frozen."""
    if settings.is_frozen:
        return 0
    if settings.steps is not None:
        return settings.steps
    return max(1, math.ceil(settings.epochs * math.ceil(rows / settings.batch_size)))


def planned_passes(settings: TrainingSettings, rows: int) -> float:
    """How often a stage trains on each of that many rows, on average; only an epoch's last batch may be a small one."""
    epochs, steps = divmod(planned_steps(settings, rows), math.ceil(rows / settings.batch_size))
    return epochs + steps * settings.batch_size / rows


def train_stage(
    model: PreTrainedModel,
    name: str,
    stage: Stage,
    examples: Sequence[EncodedExample],
    *,
    pad_id: int,
    seed: int,
    reporter: Reporter,
    holdout_seed: int | None = None,
    plan: CheckpointPlan | None = None,
    attention: str = "auto",
    prefixes: StagePrefixes | None = None,
) -> StageOutcome:
    """Train what requires gradients in `model` as the stage says.

    Args:
        model: with the stage's adapters attached and marked as trainable.
        name: of the stage, for the reports.
        examples: the training rows; a part becomes the validation rows where the stage has a `holdout`.
        seed: of the order of rows and of dropout.
        reporter: receives logged metrics, validation losses, progress and notes.
        holdout_seed: of the choice of validation rows; None for `seed`.
        plan: when to write checkpoints and which one to resume from; None for neither.
        attention: model.attention of the recipe.
        prefixes: that the stage shares with others of its run; None for none.

    Raises:
        HeftError: no weight that trains has a part in the answers.
        Diverged: a loss or a gradient is not finite, and the weights are those before that step; or the last step has
            left weights that cannot be used.
        Stopped: a signal has asked for an end; a checkpoint holds the last step.
    """
    peak = PeakMemory(model.device)
    data = TrainingData(
        *split_validation(examples, stage.holdout, seed if holdout_seed is None else holdout_seed), pad_id
    )
    steps = planned_steps(stage, len(data.rows))
    uses = planned_passes(stage, len(data.rows))
    require_an_effect(model, name, data.examples, pad_id)
    with ExitStack() as modes:  # the faster of equal ways to compute, which end with the stage
        modes.enter_context(repeatable(model.device))
        modes.enter_context(attention_for_training(model, attention, data.examples))
        is_fused = stage.fused and may_be_fused(model, data.examples, pad_id, reporter)
        modes.enter_context(fused_lora(model, is_fused))
        modes.enter_context(frozen_layers_in_onednn(model, stage.fused))
        scratch = modes.enter_context(tempfile.TemporaryDirectory(prefix="heft-"))
        loss, reuses = loss_for(model, stage, data.examples, pad_id, uses, Path(scratch), reporter, attention, prefixes)
        if stage.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
            model.disable_input_require_grads()  # enabled by that for reentrant blocks; it takes backward to the bottom
            modes.callback(model.activation_checkpointing_disable)
        loop = TrainingLoop(model, name, stage, data, loss, steps, seed, reporter, peak, plan)
        with reporter.progress(name, steps):
            loop.run()
    if note := flat_loss_note(f"stage {name}", loop.progress.losses):
        reporter.warn(note)
    progress, reason = loop.progress, loop.early_stopping.reason
    is_early = progress.step < steps
    if is_early:
        kept = "the weights of the lowest were kept" if stage.best_checkpoint else "the last weights were kept"
        reporter.note(f"stage {name} stopped early, after step {progress.step:,} of {steps:,}: {reason}; {kept}")
    return StageOutcome(
        steps=progress.step,
        seconds=progress.seconds,
        tokens=progress.tokens,
        ended="early_stopping" if is_early else "planned",
        ended_because=reason if is_early else f"all {steps:,} steps were taken",
        peak_bytes=progress.peak_bytes,
        reuses=reuses,
    )
