"""Checkpoints of a stage in training: what they hold, and where they go."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from heft.recipe.training import CheckpointSettings
from heft.training.snapshot import pack, unpack


@dataclass
class StageProgress:
    """How far a stage has come, over all sessions of a resumed run.

    Attributes:
        step: optimizer steps taken.
        tokens: real tokens (no padding) that went through the model.
        seconds: of training.
        peak_bytes: see heft.training.peak; None where it is unknown.
        losses: the logged training losses.
        logged_at: the step that was logged last.
        micro_batch_sizes: rows that run together in "training" and in "validation", where memory has run out.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    peak_bytes: int | None = None
    losses: list[float] = field(default_factory=list)
    logged_at: int = 0
    micro_batch_sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StageCheckpoint:
    """All that the next step of a stage depends on.

    Attributes:
        running_losses: of each process, the sum of the losses since the last logged step.
        weights: the trained ones, by name.
        optimizer, schedule: their `state_dict`s.
        early_stopping: from `EarlyStopping.state`.
        random: of each process, the state of its random numbers.
        epoch_random: the state of torch's, from which the epoch's order of rows was drawn.
    """

    progress: StageProgress
    running_losses: list[float]
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    early_stopping: dict[str, Any]
    random: list[dict[str, Any]]
    epoch_random: torch.Tensor

    def packed(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """As plain values and tensors (`heft.training.snapshot.pack`)."""
        return pack(vars(self) | {"progress": vars(self.progress)})

    @classmethod
    def unpacked(cls, values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> "StageCheckpoint":
        """From what `packed` returned."""
        fields = unpack(values, tensors)
        return cls(**fields | {"progress": StageProgress(**fields["progress"])})


@dataclass(frozen=True)
class CheckpointPlan:
    """When a stage writes checkpoints, and from which one it resumes; `write` is called in every process.

    After the last step there is none.
    """

    settings: CheckpointSettings
    write: Callable[[StageCheckpoint], None]
    resume_from: StageCheckpoint | None = None
