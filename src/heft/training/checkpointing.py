"""A stage is kept while it trains: when, and what beside its Trainer."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from transformers import TrainerCallback

from heft.recipe.training import CheckpointSettings
from heft.runtime import distributed, signals
from heft.training.early_stopping import HeldBack
from heft.training.peak import PeakMemory
from heft.training.resumable import ResumableTrainer
from heft.training.snapshot import Snapshot, apart, together


@dataclass(frozen=True)
class Keeping:
    """How a stage is kept while it trains.

    Attributes:
        settings: when.
        write: is given the step and what the next one depends on.
        start: such a thing, to go on from; None to begin.
    """

    settings: CheckpointSettings
    write: Callable[[int, Snapshot], None]
    start: Snapshot | None = None


class Course:
    """A stage's time and memory, of earlier attempts too, and what is kept with each snapshot of its Trainer.

    Attributes:
        start: where its Trainer goes on; None for the beginning.
        callbacks: for its Trainer.
    """

    def __init__(self, watch: HeldBack, peak: PeakMemory, steps: int, keeping: Keeping | None):
        self.start: Snapshot | None = None
        self.callbacks: list[TrainerCallback] = [] if keeping is None else [_Saving(keeping.settings, steps)]
        self._watch, self._peak, self._keeping = watch, peak, keeping
        self._began, self._seconds, self._peak_bytes = time.perf_counter(), 0.0, None
        if keeping is not None and keeping.start is not None:
            earlier = apart(keeping.start)
            self.start = earlier["trainer"]
            watch.restore(earlier["held_back"])
            self._seconds = earlier["course"].values["seconds"]
            self._peak_bytes = earlier["course"].values["peak_bytes"]

    def train(self, trainer: ResumableTrainer) -> None:
        """Train, by the clock."""
        self._began = time.perf_counter()
        trainer.begin()

    def keep(self, step: int, snapshot: Snapshot) -> None:
        """Write a snapshot of the Trainer with the rest; at a plateau the stage is over, and nothing is to be kept."""
        if self._watch.plateau is None:
            course = Snapshot({"seconds": self.seconds(), "peak_bytes": self.peak_bytes()}, {})
            whole = together(trainer=snapshot, held_back=self._watch.snapshot(), course=course)
            self._keeping.write(step, whole)

    def seconds(self) -> float:
        """Of training so far."""
        return self._seconds + time.perf_counter() - self._began

    def peak_bytes(self) -> int | None:
        """The most memory so far."""
        peaks = [peak for peak in (self._peak_bytes, self._peak.bytes()) if peak is not None]
        return max(peaks, default=None)


class _Saving(TrainerCallback):
    """Says when a stage is to be kept: when it is due, and when a signal has asked for the end."""

    def __init__(self, settings: CheckpointSettings, steps: int):
        self._settings, self._steps = settings, steps
        self._last = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        ends, due = distributed.any_of(signals.asked() is not None, self._is_due(state.global_step))
        if state.global_step < self._steps:  # after the last one the stage is kept as trained
            control.should_save = control.should_save or due or ends
            control.should_training_stop = control.should_training_stop or ends

    def on_save(self, args, state, control, **kwargs):
        self._last = time.monotonic()

    def _is_due(self, step: int) -> bool:
        every, minutes = self._settings.every_steps, self._settings.every_minutes
        by_the_clock = minutes is not None and time.monotonic() - self._last >= 60 * minutes
        return by_the_clock or (every is not None and step % every == 0)
