"""A coarse stage that is trained from fork to fork, each of which is the end of a whole recipe's stage.

Its rate is constant and falls to 0 before each fork (`schedule: warmup_stable_decay`). From where the rate began to
fall the trunk goes on to the next fork, so that of a longer stage only the end is trained anew. The trunk goes on as
long as that pays, and second stages begin at forks on its way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from heft.adapters.detach import gone_afterwards
from heft.recipe.recipe import Stage
from heft.recipe.training import DECAY, CheckpointSettings
from heft.run.checkpoints import Checkpoints, StepCheckpoint
from heft.training.checkpointing import CheckpointPlan, StageCheckpoint
from heft.training.guards import Diverged
from heft.training.reuse.shared import reach_back
from heft.tune.bench import Before, Bench
from heft.tune.ledger import Ledger
from heft.tune.measure import NOT_FINITE
from heft.tune.trial import COARSE, Outcome, dumped, key_of, sized

STABLE, END = "stable", "end"
"""The checkpoints of a fork: where the rate begins to fall, and the fork itself."""


class _At(CheckpointSettings):
    """Checkpoints at these steps."""

    steps: tuple[int, ...]

    def is_due(self, step: int, seconds: float) -> bool:
        return step in self.steps


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
        falls = {"schedule": "warmup_stable_decay", "decay": decay_steps(steps) / steps}
        return sized(self.stage, steps, self.bench.holdout, warmup=warmup, **falls)

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
            if self._checkpoint(number, END) is None:  # a resumed search whose checkpoints are gone
                self._train_to(number)
            return self._checkpoint(number, END).state.weights

        return Before(COARSE, self.stage_at(number), outcome.training_seconds, outcome.training_flops, weights)

    def _train_to(self, number: int) -> Outcome:
        started = perf_counter()
        last = None if number == 0 else self._checkpoint(number - 1, STABLE)
        if number and last is None:
            self._train_to(number - 1)
            last = self._checkpoint(number - 1, STABLE)
        stage = self.stage_at(number)
        plan = CheckpointPlan(
            _At(steps=(self._stable_steps(number), stage.steps)),
            self._keep(number),
            last and last.state,
            at_the_end=True,
        )
        measured = NOT_FINITE
        with gone_afterwards(self.bench.base.model):
            try:
                self.bench.train_stage({COARSE: stage}, COARSE, stage, plan)
                measured = self.bench.measure({COARSE: stage})
            except Diverged:
                pass
        seconds = perf_counter() - started
        before = last.state.progress.seconds if last else 0.0
        found = self._checkpoint(number, END)
        trained = found.state.progress.seconds - before if found else seconds
        prefixes = self.bench.prefix_seconds({COARSE: stage})
        flops = self.bench.counter.flops_alone({}, COARSE, stage)
        paid = self.bench.counter.paid({}, COARSE, [stage])
        if number:
            begun = sized(stage, self._stable_steps(number - 1), self.bench.holdout)
            paid -= self.bench.counter.paid({}, COARSE, [begun])
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
            which = END if state.progress.step == self.forks[number] else STABLE
            self._checkpoints(number, which).write_step(COARSE, StepCheckpoint(state, None, 0))

        return write

    def _stable_steps(self, number: int) -> int:
        """Steps before the rate falls to a fork."""
        return self.forks[number] - decay_steps(self.forks[number])

    def _checkpoint(self, number: int, which: str) -> StepCheckpoint | None:
        return self._checkpoints(number, which).last_step(COARSE)

    def _checkpoints(self, number: int, which: str) -> Checkpoints:
        folder = self.folder / key_of({COARSE: self.stage_at(number)}) / which
        return Checkpoints(folder, [COARSE], 1, self.bench.reporter.warn)


def warmup_steps(share: float, forks: Sequence[int]) -> int:
    """Steps of the trunk's warmup: a share of the whole, but half of the way to the first fork at most."""
    return min(round(share * max(forks)), forks[0] // 2)


def decay_steps(steps: int) -> int:
    """Of so many steps up to a fork, those in which the rate falls."""
    return max(1, round(DECAY * steps))


def fork_steps(last: int, forks: int, least: int) -> list[int]:
    """Steps of forks, each twice as late as the one before, the last one given; none before the least."""
    return sorted({max(least, round(last / 2**number)) for number in range(forks)} | {max(least, last)})
