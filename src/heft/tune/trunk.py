"""A coarse stage with a constant learning rate, trained from fork to fork: any part of it is a whole recipe's stage.

With a constant rate, and a warmup of so many steps, the first s steps of a longer training are those of a training of
s steps. So the trunk goes on as long as that pays, and second stages begin at forks on its way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from heft.adapters.detach import gone_afterwards
from heft.recipe.recipe import Stage
from heft.recipe.training import CheckpointSettings
from heft.run.checkpoints import Checkpoints, StepCheckpoint
from heft.training.checkpointing import CheckpointPlan, StageCheckpoint
from heft.training.guards import Diverged
from heft.training.reuse.shared import reach_back
from heft.tune.bench import Before, Bench
from heft.tune.ledger import Ledger
from heft.tune.measure import NOT_FINITE
from heft.tune.trial import COARSE, Outcome, dumped, key_of, sized


class _At(CheckpointSettings):
    """A checkpoint at one step."""

    step: int

    def is_due(self, step: int, seconds: float) -> bool:
        return step == self.step


class _Reached(Exception):
    """The trunk is at its next fork."""


@dataclass(frozen=True)
class Trunk:
    """One coarse stage on its way.

    Attributes:
        bench: on which it is trained.
        ledger: of what is finished.
        stage: the candidate's, of any length and schedule.
        values: of the lists, that it has.
        forks: steps at which it is forked, rising.
        folder: for its checkpoints.
    """

    bench: Bench
    ledger: Ledger
    stage: Stage
    values: dict
    forks: Sequence[int]
    folder: Path

    def stage_at(self, number: int) -> Stage:
        """The stage of a recipe that ends at a fork."""
        steps = self.forks[number]
        warmup = warmup_steps(self.stage.warmup, self.forks) / steps
        return sized(self.stage, steps, self.bench.holdout, schedule="constant", warmup=warmup)

    def at(self, number: int) -> Outcome:
        """Train on to a fork, and measure there; taken from the ledger where that was done before."""
        stages = {COARSE: self.stage_at(number)}
        known = self.ledger.outcomes.get(key_of(stages))
        if known is None:
            known = self._train_to(number)
            self.ledger.add([known])
        return known

    def before(self, number: int) -> Before:
        """The trunk at a fork, to build on."""
        outcome = self.at(number)

        def weights() -> Mapping[str, torch.Tensor]:
            if self._checkpoint(number) is None:  # a resumed search whose checkpoints are gone
                self._train_to(number)
            return self._checkpoint(number).state.weights

        return Before(COARSE, self.stage_at(number), outcome.training_seconds, outcome.training_flops, weights)

    def _train_to(self, number: int) -> Outcome:
        started = perf_counter()
        last = None if number == 0 else self._checkpoint(number - 1)
        if number and last is None:
            self._train_to(number - 1)
            last = self._checkpoint(number - 1)
        stage = self.stage_at(number)
        beyond = max(self.forks) + 1
        warmup = warmup_steps(self.stage.warmup, self.forks) / beyond
        long = sized(self.stage, beyond, self.bench.holdout, schedule="constant", warmup=warmup)
        plan = CheckpointPlan(_At(step=self.forks[number]), self._keep(number), last and last.state)
        measured = NOT_FINITE
        with gone_afterwards(self.bench.base.model):
            try:
                self.bench.train_stage({COARSE: stage}, COARSE, long, plan)
            except Diverged:
                pass
            except _Reached:
                measured = self.bench.measure({COARSE: stage})
        seconds = perf_counter() - started
        before = last.state.progress.seconds if last else 0.0
        found = self._checkpoint(number)
        trained = found.state.progress.seconds - before if found else seconds
        prefixes = self.bench.prefix_seconds({COARSE: stage})
        flops = self.bench.counter.flops_alone({}, COARSE, stage)
        paid = self.bench.counter.paid({}, COARSE, [stage])
        if number:
            paid -= self.bench.counter.paid({}, COARSE, [self.stage_at(number - 1)])
        return Outcome(
            key=key_of({COARSE: stage}),
            kind=stage.method,
            stages=dumped({COARSE: stage}),
            values=self.values,
            loss=measured.loss,
            accuracy=measured.accuracy,
            row_losses=measured.row_losses,
            seconds=seconds,
            trained_seconds=trained,
            flops=paid,
            training_seconds=before + trained + prefixes,
            training_flops=flops,
            behind=reach_back(COARSE, stage) is not None,
            steps=stage.steps,
        )

    def _keep(self, number: int) -> Callable[[StageCheckpoint], None]:
        def write(state: StageCheckpoint) -> None:
            self._checkpoints(number).write_step(COARSE, StepCheckpoint(state, None, 0))
            raise _Reached

        return write

    def _checkpoint(self, number: int) -> StepCheckpoint | None:
        return self._checkpoints(number).last_step(COARSE)

    def _checkpoints(self, number: int) -> Checkpoints:
        folder = self.folder / key_of({COARSE: self.stage_at(number)})
        return Checkpoints(folder, [COARSE], 1, self.bench.reporter.warn)


def warmup_steps(share: float, forks: Sequence[int]) -> int:
    """Steps of the trunk's warmup: a share of the whole, but half of the way to the first fork at most."""
    return min(round(share * max(forks)), forks[0] // 2)


def fork_steps(last: int, forks: int, least: int) -> list[int]:
    """Steps of forks, each twice as late as the one before, the last one given; none before the least."""
    return sorted({max(least, round(last / 2**number)) for number in range(forks)} | {max(least, last)})
