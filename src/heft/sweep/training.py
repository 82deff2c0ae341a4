"""All learners of a sweep in lockstep: in each step, their batches go through the frozen model together."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from heft.adapters.attach import train_only
from heft.data.batching import packs
from heft.runtime.reporter import Reporter
from heft.sweep.forward import PackedForward
from heft.sweep.learner import Job, Learner, are_finite
from heft.sweep.packing import WorkItem
from heft.sweep.retry import RetryingForward


@dataclass(frozen=True)
class Took:
    """Seconds of all configurations together.

    Attributes:
        seconds: in all.
        validating: those of them in which validation rows were scored.
    """

    seconds: float
    validating: float


@dataclass(frozen=True)
class SideBySide:
    """The training of all configurations; `validation` are the numbers of the validation rows.

    `row_losses` has, by learner, −ln p of each validation row's answer at its last validation.
    """

    learners: Sequence[Learner]
    forward: PackedForward
    validation: Sequence[int]
    retrying: RetryingForward
    row_losses: dict[int, list[float]] = field(default_factory=dict)

    def train(self, what: str, reporter: Reporter) -> Took:
        """Train all to their ends; returns what it took."""
        train_only(self.forward.model, [learner.configuration.adapter for learner in self.learners])
        total = max(learner.steps for learner in self.learners)
        start, validating = time.perf_counter(), 0.0
        with reporter.progress(what, total):
            self.retrying.set_training(True)
            for step in range(1, total + 1):
                live = [learner for learner in self.learners if learner.is_training]
                if not live:
                    break
                self._step(live, reporter.metrics)
                due = [learner for learner in live if not learner.diverged and learner.is_due()]
                started = time.perf_counter()
                self._validate(due, reporter.metrics)
                validating += time.perf_counter() - started
                self.forward.end_step()
                reporter.step(what, step, total)
            self.retrying.set_training(False)
        for learner in self.learners:
            learner.finish()
        return Took(time.perf_counter() - start, validating)

    def _step(self, live: Sequence[Learner], on_metrics: Callable[[dict], None]) -> None:
        jobs_of_learners = [learner.next_step() for learner in live]
        for micro_batches in itertools.zip_longest(*jobs_of_learners):  # one of each, as each has them alone
            jobs = [job for job in micro_batches if job is not None]
            jobs.sort(key=lambda job: job.rows)  # equal rows, one pass
            for pack in packs(jobs, lambda job: self._tokens([job]), self.retrying.budget.tokens):
                self._accumulate(pack)
        for learner in live:
            metrics = None if learner.diverged else learner.update()
            if metrics is None:
                self.retrying.diverge(learner)
                metrics = {"step": learner.taken + 1, "diverged": True}
            on_metrics({"configuration": learner.configuration.name, **metrics})

    def _accumulate(self, pack: Sequence[Job]) -> None:
        """Add the gradients of these jobs, each to its own learner; in halves where memory does not suffice.

        NaN among the weights would spoil the whole pass, since a masked token still counts 0 · NaN. Then the jobs run
        one by one, and those at fault end.

        Raises:
            HeftError: rows have no finite loss, whatever the configuration; or memory does not suffice for one row.
        """
        pack = [job for job in pack if not job.learner.diverged]
        if not pack:
            return
        halves = _halves(pack)
        if halves and self.retrying.budget.is_exceeded_by(self._tokens(pack)):
            for half in halves:
                self._accumulate(half)
            return
        states = [(job.learner.random, job.learner.random.state) for job in pack]
        results = self.retrying.tried(lambda: self._gradients(pack), [self._tokens(half) for half in halves])
        if results is not None and all(torch.isfinite(loss) and are_finite(found) for loss, found in results):
            for job, (loss, gradients) in zip(pack, results, strict=True):
                job.learner.add_gradients(gradients, loss.item())
            return
        for random, state in states:
            random.state = state
        if results is None:
            self._accumulate(pack)
        elif len(pack) > 1:
            for job in pack:
                self._accumulate([job])
        else:
            self.retrying.require_finite_rows(self._items(pack[0]))
            self.retrying.diverge(pack[0].learner)

    def _gradients(self, pack: Sequence[Job]) -> list[tuple[torch.Tensor, list[torch.Tensor | None]]]:
        """Loss and gradients of each job; each is another learner's."""
        items = [self._items(job) for job in pack]
        by_item = self.forward.losses(list(itertools.chain.from_iterable(items)))
        losses = [
            part.sum() / job.answer_tokens
            for job, part in zip(pack, by_item.split([len(part) for part in items]), strict=True)
        ]
        parameters = [p for job in pack for p in job.learner.parameters.values()]
        found = iter(torch.autograd.grad(sum(losses), parameters, allow_unused=True))
        return [
            (loss.detach(), list(itertools.islice(found, len(job.learner.parameters))))
            for job, loss in zip(pack, losses, strict=True)
        ]

    def _tokens(self, pack: Sequence[Job]) -> int:
        return sum(self.retrying.tokens(self._items(job)) for job in pack)

    def _items(self, job: Job) -> list[WorkItem]:
        examples = self.forward.examples
        return [self.forward.item(job.learner.number, row, examples[row].answer) for row in job.rows]

    def _validate(self, due: Sequence[Learner], on_metrics: Callable[[dict], None]) -> None:
        """Evaluate the validation rows for all learners that are due: the mean over tokens, as in a run of its own."""
        if not due:
            return
        self.retrying.set_training(False)
        examples = self.forward.examples
        items = [self.forward.item(lr.number, row, examples[row].answer) for lr in due for row in self.validation]
        losses = self.retrying.measure(items)
        values = {(item.adapter, item.row): value for item, value in zip(items, losses, strict=True)}
        for learner in due:
            name = learner.configuration.name
            if learner.diverged:
                on_metrics({"configuration": name, "step": learner.taken, "diverged": True})
                continue
            row_losses = [values[learner.number, row] for row in self.validation]
            loss = sum(row_losses) / sum(len(examples[row].answer) for row in self.validation)
            self.row_losses[learner.number] = row_losses
            on_metrics({"configuration": name, "step": learner.taken, "eval_loss": loss})
            learner.add_validation_loss(loss)
        self.retrying.set_training(True)


def _halves(pack: Sequence[Job]) -> list[list[Job]]:
    """Half of the jobs and the rest, or of one job's rows; empty for one row."""
    if len(pack) > 1:
        return [list(pack[: len(pack) // 2]), list(pack[len(pack) // 2 :])]
    (job,) = pack
    half = len(job.rows) // 2
    return [[replace(job, rows=rows)] for rows in (job.rows[:half], job.rows[half:])] if half else []
