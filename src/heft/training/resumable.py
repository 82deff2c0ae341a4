"""transformers' Trainer, stopped and going on without pickle, at the same step, with the same numbers."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate.utils import gather_object
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME

from heft.runtime import distributed
from heft.training.snapshot import (
    Snapshot,
    apart,
    optimizer_state,
    random_state,
    restore_optimizer,
    restore_random_state,
    restore_weights,
    together,
    trained_weights,
)


class ResumableTrainer(Trainer):
    """Says where it is when its control asks to save, and goes on from where it was.

    The Trainer's own way of going on (it skips the batches of a begun epoch) is kept; what it would read from files of
    its own is put back from a snapshot. Beyond these it needs the random numbers with which the epoch was begun, since
    the order of rows follows from them, and the loss since the last logged step.

    Args:
        keep: is given the step and a snapshot whenever one is due; of several processes, each holds what all need.
        start: where to go on; None for the beginning.
    """

    def __init__(
        self, *args, keep: Callable[[int, Snapshot], None] | None = None, start: Snapshot | None = None, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self._keep, self._start = keep, start and apart(start)
        self._epoch_began = random_state()

    def begin(self) -> None:
        """Train from the start, or from where the snapshot was taken."""
        if self._start is None:
            self.train()
            return
        folder = Path(self.args.output_dir)
        (folder / TRAINER_STATE_NAME).write_text(json.dumps(self._start["trainer"].values["state"]), encoding="utf-8")
        self.train(resume_from_checkpoint=str(folder))

    def snapshot(self) -> Snapshot:
        """Where this is; between two steps."""
        mine = together(now=random_state(), epoch=self._epoch_began)
        mine.values["loss"] = self._tr_loss.item()
        everyone = gather_object([mine]) if distributed.count() > 1 else [mine]
        about = {
            "state": asdict(self.state) | {"stateful_callbacks": {}},
            "last_logged": self._globalstep_last_logged,
            "losses": [each.values.pop("loss") for each in everyone],
            "schedule": self.lr_scheduler.state_dict(),
        }
        return together(
            trainer=Snapshot(about, {}),
            weights=Snapshot({}, trained_weights(self.model)),
            optimizer=optimizer_state(self.optimizer),
            **{f"random-{number}": each for number, each in enumerate(everyone)},
        )

    def _save_checkpoint(self, model, trial) -> None:
        self._keep(self.state.global_step, self.snapshot())

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        restore_weights(self.model, self._start["weights"].tensors)

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        if checkpoint is not None:
            restore_optimizer(self.optimizer, self._start["optimizer"])
            self.lr_scheduler.load_state_dict(self._start["trainer"].values["schedule"])

    def _load_rng_state(self, checkpoint) -> None:
        if checkpoint is not None:
            restore_random_state(self._my_random("now"))

    def _run_epoch(self, *, steps_trained_in_current_epoch, **rest) -> None:
        if self._start is not None and rest["epoch"] == rest["epochs_trained"]:
            begun = steps_trained_in_current_epoch > 0
            restore_random_state(self._my_random("epoch" if begun else "now"))
            about = self._start["trainer"].values
            self._tr_loss += torch.tensor(about["losses"][self.args.process_index], device=self.args.device)
            self._globalstep_last_logged = about["last_logged"]
        self._epoch_began = random_state()
        super()._run_epoch(steps_trained_in_current_epoch=steps_trained_in_current_epoch, **rest)

    def _my_random(self, when: str) -> Snapshot:
        return apart(self._start[f"random-{self.args.process_index}"])[when]
