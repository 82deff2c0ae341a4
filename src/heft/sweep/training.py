"""All learners of a sweep in lock-step: in each step, their batches go through the frozen model together."""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from heft.reporter import Reporter
from heft.stages import train_only
from heft.sweep.copies import Copy
from heft.sweep.learner import Job, Learner
from heft.sweep.passes import Passes
from heft.training.trainer import frozen_adapter_modules


@dataclass(frozen=True)
class SideBySide:
    """The training of all configurations.

    Attributes:
        learners: one for each configuration.
        passes: the forward passes.
        held_back: indices of the rows that nobody trains on.
        tokens_per_pass: most tokens in a pass.
    """

    learners: Sequence[Learner]
    passes: Passes
    held_back: Sequence[int]
    tokens_per_pass: int

    def train(self, what: str, reporter: Reporter, on_metrics: Callable[[dict], None]) -> float:
        """Train all to their ends; returns the seconds it took."""
        train_only(self.passes.model, [learner.configuration.adapter for learner in self.learners])
        total = max(learner.steps for learner in self.learners)
        start = time.perf_counter()
        with reporter.progress(what, total):
            self._set_training(True)
            for step in range(1, total + 1):
                live = [learner for learner in self.learners if learner.is_training]
                if not live:
                    break
                self._step(live, on_metrics)
                self._watch([learner for learner in live if not learner.diverged and learner.is_due()], on_metrics)
                self.passes.end_step()
                reporter.step(what, step, total)
            self._set_training(False)
        for learner in self.learners:
            learner.finish()
        return time.perf_counter() - start

    @torch.no_grad()
    def losses(self, copies: Sequence[Copy]) -> list[float]:
        """−ln p of each copy's continuation, in as many passes as the limit of tokens asks for."""
        order = sorted(range(len(copies)), key=lambda n: (copies[n].row, copies[n].owner))
        values = [0.0] * len(copies)
        for chunk in self._packed(order, lambda n: self._tokens([copies[n]])):
            for n, value in zip(chunk, self.passes.losses([copies[n] for n in chunk]).tolist(), strict=True):
                values[n] = value
        return values

    def _step(self, live: Sequence[Learner], on_metrics: Callable[[dict], None]) -> None:
        jobs_of_learners = [learner.next_step() for learner in live]
        for together in itertools.zip_longest(*jobs_of_learners):  # one micro-batch of each, as each has them alone
            jobs = sorted(
                (job for job in together if job is not None), key=lambda job: job.rows
            )  # equal rows, one pass
            for pack in self._packed(jobs, lambda job: self._tokens(self._copies(job))):
                self._accumulate(pack)
        for learner in live:
            if not learner.diverged:
                on_metrics({"configuration": learner.configuration.name, **learner.update()})
            else:
                on_metrics({"configuration": learner.configuration.name, "step": learner.taken + 1, "diverged": True})

    def _accumulate(self, pack: Sequence[Job]) -> None:
        """Add the gradients of these jobs, each to its own learner.

        Weights that are no numbers any more would spoil the whole pass, since a masked token still counts 0 · NaN. Then
        the jobs run one by one, and those at fault end.
        """
        pack = [job for job in pack if not job.learner.diverged]
        states = [(job.learner.random, job.learner.random.state) for job in pack]
        results = self._gradients(pack) if pack else []
        if all(torch.isfinite(loss) and _are_finite(gradients) for loss, gradients in results):
            for job, (loss, gradients) in zip(pack, results, strict=True):
                job.learner.add_gradients(gradients, loss.item())
        elif len(pack) == 1:
            pack[0].learner.diverge()
        else:
            for random, state in states:
                random.state = state
            for job in pack:
                self._accumulate([job])

    def _gradients(self, pack: Sequence[Job]) -> list[tuple[torch.Tensor, list[torch.Tensor | None]]]:
        """Loss and gradients of each job; each is another learner's."""
        copies = [self._copies(job) for job in pack]
        by_copy = self.passes.losses(list(itertools.chain.from_iterable(copies)))
        losses = [
            part.sum() / job.answer_tokens
            for job, part in zip(pack, by_copy.split([len(part) for part in copies]), strict=True)
        ]
        parameters = [p for job in pack for p in job.learner.parameters.values()]
        found = iter(torch.autograd.grad(sum(losses), parameters, allow_unused=True))
        return [
            (loss.detach(), list(itertools.islice(found, len(job.learner.parameters))))
            for job, loss in zip(pack, losses, strict=True)
        ]

    def _copies(self, job: Job) -> list[Copy]:
        examples = self.passes.examples
        return [self.passes.copy(job.learner.number, row, examples[row].answer) for row in job.rows]

    def _watch(self, due: Sequence[Learner], on_metrics: Callable[[dict], None]) -> None:
        """Evaluate the held-back rows for all learners that are due, as the Trainer takes its mean: over batches."""
        if not due:
            return
        self._set_training(False)
        examples = self.passes.examples
        copies = [self.passes.copy(lr.number, row, examples[row].answer) for lr in due for row in self.held_back]
        values = {(copy.owner, copy.row): value for copy, value in zip(copies, self.losses(copies), strict=True)}
        for learner in due:
            total = 0.0
            for batch in learner.held_back_batches():
                tokens = sum(len(examples[row].answer) for row in batch)
                total += len(batch) * sum(values[learner.number, row] for row in batch) / tokens
            loss = total / len(self.held_back)
            on_metrics({"configuration": learner.configuration.name, "step": learner.taken, "eval_loss": loss})
            learner.watch(loss)
        self._set_training(True)

    def _set_training(self, is_training: bool) -> None:
        model = self.passes.model
        model.train(is_training)
        for module in frozen_adapter_modules(model):
            if isinstance(module, nn.Dropout):
                module.eval()

    def _tokens(self, copies: Iterable[Copy]) -> int:
        return sum(copy.width(self.passes.examples[copy.row]) for copy in copies)

    def _packed(self, items: Iterable, size: Callable) -> list[list]:
        """Items in groups of `tokens_per_pass` at most, in order; an item that is larger goes alone."""
        packs, room = [], 0
        for item in items:
            tokens = size(item)
            if tokens > room or not packs:
                packs.append([])
                room = self.tokens_per_pass
            packs[-1].append(item)
            room -= tokens
        return packs


def _are_finite(gradients: Sequence[torch.Tensor | None]) -> bool:
    given = [gradient for gradient in gradients if gradient is not None]
    return not given or bool(torch.isfinite(torch.stack(torch._foreach_norm(given))).all())
