"""The training loop of a stage: forward and backward in micro-batches, clip, step, schedule; log, evaluate, save.

`TrainingLoop.run` is the loop, `_step` one optimizer step. Of several processes each takes its share of every
micro-batch; accelerate averages their gradients (DDP), or torch does, of a sharded model (heft.models.sharding).
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedModel, set_seed

from heft.models.sharding import is_sharded, whole
from heft.recipe.recipe import Stage
from heft.runtime import distributed, signals
from heft.runtime.reporter import Reporter
from heft.training import guards, snapshot
from heft.training.batches import TrainingData, epoch_of, is_validation_due
from heft.training.checkpointing import CheckpointPlan, StageCheckpoint, StageProgress
from heft.training.early_stopping import EarlyStopping
from heft.training.loss import Loss
from heft.training.modes import bf16_forward, frozen_dropouts, make_accelerator, train_mode, trained_parameters
from heft.training.optimizers import make_optimizer, make_schedule
from heft.training.out_of_memory import Batch, in_micro_batches
from heft.training.peak import PeakMemory


@dataclass(eq=False)
class TrainingLoop:
    """Trains what requires gradients on the mean loss of all answer tokens of an optimizer step.

    The mean is taken over the whole step, so it does not depend on how the step is split into micro-batches or over
    processes. A step whose loss or gradient is not finite is not taken, and weights that a step has spoiled are not
    saved (heft.training.guards.Diverged).

    Attributes:
        model: with the stage's adapters attached and marked as trainable.
        name: of the stage.
        stage: its settings.
        data: its rows.
        loss: sum over a batch's answer tokens, see heft.training.loss.
        steps: optimizer steps to take.
        seed: of the order of rows and of dropout.
        reporter: receives every step, the logged metrics and notes.
        peak: measures memory from the stage's start.
        plan: when to write checkpoints, and which one to resume from; None for neither.
    """

    model: PreTrainedModel
    name: str
    stage: Stage
    data: TrainingData
    loss: Loss
    steps: int
    seed: int
    reporter: Reporter
    peak: PeakMemory
    plan: CheckpointPlan | None = None

    def __post_init__(self):
        self.progress, self.early_stopping = StageProgress(), EarlyStopping(self.stage)
        self._frozen_dropouts = frozen_dropouts(self.model)
        self._accelerator = make_accelerator(self.stage)
        optimizer = make_optimizer(trained_parameters(self.model), self.stage)
        self._is_sharded = is_sharded(self.model)
        if self._is_sharded:
            self._wrapped, self._optimizer = self.model, self._accelerator.prepare(optimizer)
        else:
            self._wrapped, self._optimizer = self._accelerator.prepare(self.model, optimizer)
        self._schedule = make_schedule(self._optimizer, self.stage, self.steps)
        self._parameters = trained_parameters(self.model)
        self._process, self._processes = self._accelerator.process_index, self._accelerator.num_processes
        self._steps_per_epoch = math.ceil(len(self.data.rows) / self.stage.batch_size)
        self._running_loss = torch.tensor(0.0, device=self.model.device)
        self._batches: list[Batch] = []  # of the last step

    def run(self) -> None:
        """Train until the last step, early stopping or a signal.

        Raises:
            Diverged: see there.
            Stopped: a signal arrived; a checkpoint holds the step that was running.
        """
        self._started, self._saved_at = time.perf_counter(), time.monotonic()
        set_seed(self.seed)
        train_mode(self._wrapped, self._frozen_dropouts)
        self._clear_gradients()
        checkpoint = self.plan and self.plan.resume_from
        if checkpoint is not None:
            self._restore(checkpoint)
        steps = self._micro_batches(checkpoint)
        with bf16_forward(self.model, self.stage.bf16):
            while self.progress.step < self.steps and self.early_stopping.reason is None:
                norm, learning_rate = self._step(next(steps))
                self.reporter.step(self.name, self.progress.step, self.steps)
                self._log_if_due(norm, learning_rate)
                self._evaluate_if_due()
                self._save_if_due()
            self.early_stopping.restore_best(self._parameters)
            self._require_sound_weights()
        self._measure()

    def _micro_batches(self, checkpoint: StageCheckpoint | None) -> Iterator[list[list[int]]]:
        """The rows of each step that is left, in micro-batches, epoch after epoch."""
        done = self.progress.step % self._steps_per_epoch
        if done:  # the epoch's order is drawn again, and the steps that were taken are skipped
            torch.set_rng_state(checkpoint.epoch_random)
        while True:
            self._epoch_random = torch.get_rng_state()
            epoch = self.data.epoch(self.stage)
            if done:
                next(itertools.islice(epoch, done - 1, None))
                self._restore_random(checkpoint)
            yield from epoch
            done = 0

    def _step(self, micro_batches: Sequence[Sequence[int]]) -> tuple[float, float]:
        """One optimizer step. Returns the gradient's norm before clipping, and the learning rate."""
        rows = list(itertools.chain.from_iterable(micro_batches))
        answer_tokens = torch.tensor(float(self.data.answer_tokens(rows)), device=self.model.device)
        self._batches = [self._batch(micro_batch) for micro_batch in micro_batches]
        if not self.model.training:  # an evaluation came between; modes are not set anew in each step: models are large
            train_mode(self._wrapped, self._frozen_dropouts)
        for batch in self._batches:
            adds_up = batch is not self._batches[-1] and not self._is_sharded  # slices are sent their sums each time
            with self._accelerator.no_sync(self._wrapped) if adds_up else nullcontext():
                self._running_loss += self._forward_backward(batch, answer_tokens)
        limit = self.stage.max_grad_norm or math.inf
        norm = float(whole(self._accelerator.clip_grad_norm_(list(self._parameters.values()), limit)))
        for what, value in (("loss", self._running_loss.item()), ("gradient's norm", norm)):
            if not math.isfinite(value):
                self._clear_gradients()
                what = f"the {what} is {value}, so the step was not taken"
                self._raise_diverged(self.progress.step + 1, what, self._batches)
        self._optimizer.step()
        learning_rate = self._schedule.get_last_lr()[0]
        self._schedule.step()
        self._clear_gradients()
        self.progress.step += 1
        self.progress.tokens += sum(self.data.lengths[row] for row in rows)
        return norm, learning_rate

    def _clear_gradients(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    def _forward_backward(self, batch: Batch, answer_tokens: torch.Tensor) -> torch.Tensor:
        """Add a micro-batch's gradients; returns its part of the step's loss."""

        def run(part: Batch) -> torch.Tensor:
            # times the processes, over whose gradients accelerate takes the mean
            loss = self.loss(self._wrapped, part) / answer_tokens * self._processes
            self._accelerator.backward(loss)
            return loss.detach()

        with guards.singular_rotation_as_diverged(self.name, self.progress.step):
            if self._processes > 1:  # no retry: the others would wait for gradients that never come
                return run(batch)
            return self._in_micro_batches("training", run, batch, list(self._parameters.values()))

    def _log_if_due(self, norm: float, learning_rate: float) -> None:
        """Log the mean loss of the steps since the last logged one: a hundred times or so, and at both ends."""
        step = self.progress.step
        if step in (1, self.steps) or step % max(1, self.steps // 100) == 0:
            total = self._accelerator.gather(self._running_loss).mean().item()
            self._running_loss.zero_()
            self.progress.losses.append(total / (step - self.progress.logged_at))
            self.progress.logged_at = step
            self._log(loss=self.progress.losses[-1], grad_norm=norm, learning_rate=learning_rate)

    def _log(self, **values: float) -> None:
        epoch = epoch_of(self.progress.step, len(self.data.rows), self.stage)
        self.reporter.metrics({"stage": self.name, "step": self.progress.step, **values, "epoch": epoch})

    def _evaluate_if_due(self) -> None:
        due = is_validation_due(self.progress.step, self.steps, len(self.data.rows), self.stage)
        if self.data.validation_rows and due:
            loss = self._validation_loss()
            self._log(eval_loss=loss)
            self.early_stopping.update(self.progress.step, loss, self._parameters)

    def _save_if_due(self) -> None:
        """Write a checkpoint when one is due or a signal asks for the end, which is then a `Stopped`."""
        step = self.progress.step
        if self.plan is None or self.early_stopping.reason is not None or step == self.steps:
            return
        is_due = self.plan.settings.is_due(step, time.monotonic() - self._saved_at)
        ends, is_due = distributed.any_of(signals.requested() is not None, is_due)
        if ends or is_due:
            self._require_sound_weights()
            self.plan.write(self._checkpoint())
            self._saved_at = time.monotonic()
        if ends:
            raise signals.Stopped

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """The mean over the answer tokens of all validation rows, however they are split into batches."""
        self.model.eval()
        batches, run = self.data.validation(self.stage), partial(self.loss, self.model)
        with guards.singular_rotation_as_diverged(self.name, self.progress.step):
            losses = [self._in_micro_batches("validation", run, self._batch(rows)) for rows in batches]
        total = self._accelerator.reduce(torch.stack(losses).sum()).item()
        mean = total / sum(self.data.answer_tokens(rows) for rows in batches)
        if not math.isfinite(mean):
            what = f"the validation loss after it is {mean}"
            self._raise_diverged(self.progress.step, what, [self._batch(rows) for rows in batches], of_all=True)
        return mean

    def _raise_diverged(self, step: int, what: str, batches: Sequence[Batch], of_all: bool = False) -> NoReturn:
        """With the ids of this process's rows, or `of_all` processes, which then all have to call this."""
        # of a sharded model all processes have to run the same passes, and each has other rows
        bad = None if self._is_sharded else guards.rows_without_a_finite_loss(self.model, self.loss, batches)
        rows = [row for batch in batches for row in batch["row_ids"].tolist()]
        if of_all and self._processes > 1:
            bad, rows = None if bad is None else gather_object(bad), gather_object(rows)
        ids = [
            None if each is None else [self.data.examples[row].example.id for row in sorted(set(each))]
            for each in (bad, rows)
        ]
        raise guards.diverged(self.name, step, what, *ids, weights_moved=self.progress.step > 0)

    def _require_sound_weights(self) -> None:
        if self._batches:  # else no step was taken since the checkpoint, before which they were tried
            parameters, batch = list(self._parameters.values()), self._batches[0]
            guards.require_sound_weights(self.name, self.progress.step, self.model, parameters, self.loss, batch)

    def _checkpoint(self) -> StageCheckpoint:
        self._measure()
        mine = [(self._running_loss.item(), snapshot.random_state())]
        everyone = gather_object(mine) if self._processes > 1 else mine
        return StageCheckpoint(
            progress=deepcopy(self.progress),
            running_losses=[loss for loss, _ in everyone],
            weights=snapshot.copied(self._parameters),
            optimizer=snapshot.copied(self._optimizer.state_dict()),
            schedule=self._schedule.state_dict(),
            early_stopping=dict(self.early_stopping.state),
            random=[random for _, random in everyone],
            epoch_random=self._epoch_random,
        )

    def _restore(self, checkpoint: StageCheckpoint) -> None:
        self.progress = deepcopy(checkpoint.progress)
        self._started -= self.progress.seconds
        begun_with = len(checkpoint.random)  # processes, each with its loss and its random numbers
        same = begun_with == self._processes
        mean = sum(checkpoint.running_losses) / begun_with
        self._running_loss.fill_(checkpoint.running_losses[self._process] if same else mean)
        snapshot.restore_weights(self._parameters, checkpoint.weights)
        snapshot.restore_optimizer(self._optimizer, checkpoint.optimizer)
        self._schedule.load_state_dict(checkpoint.schedule)
        self.early_stopping.state |= checkpoint.early_stopping
        self._restore_random(checkpoint)

    def _restore_random(self, checkpoint: StageCheckpoint) -> None:
        """This process's random numbers; one that was not there draws its own."""
        if self._process < len(checkpoint.random):
            snapshot.restore_random_state(checkpoint.random[self._process])
        else:
            set_seed((self.seed + self._process) % 2**32)

    def _measure(self) -> None:
        """Bring time and peak memory up to now."""
        self.progress.seconds = time.perf_counter() - self._started
        peaks = [peak for peak in (self.progress.peak_bytes, self.peak.bytes()) if peak is not None]
        self.progress.peak_bytes = max(peaks, default=None)

    def _batch(self, rows: Sequence[int]) -> Batch:
        """This process's share of these rows, on the model's device."""
        share = self.data.share(rows, self._process, self._processes)
        return {key: value.to(self.model.device) for key, value in share.items()}

    def _in_micro_batches(
        self, what: str, run: Callable[[Batch], torch.Tensor], batch: Batch, parameters: Sequence[nn.Parameter] = ()
    ) -> torch.Tensor:
        """See there; once memory has run out in "training" or "validation", micro-batches stay smaller for it.

        Not of a sharded model, of which all processes have to run the same passes.
        """
        if self._is_sharded:
            return run(batch)

        def on_halved(rows: int) -> None:
            self.progress.micro_batch_sizes[what] = rows
            stays = f" (batch size stays {self.stage.batch_size})" if what == "training" else ""
            self.reporter.warn(f"{self.name}: out of memory in {what}: micro-batch reduced to {rows}{stays}")

        size = self.progress.micro_batch_sizes.get(what, self.stage.batch_size)
        return in_micro_batches(run, batch, size, on_halved, parameters)
