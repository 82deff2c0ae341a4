"""Runs at once, each a task of Ray; one whose node or process is lost is taken up again from its last checkpoint."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heft.cluster.connection import RayOptions
from heft.cluster.jobs import Failure, Job
from heft.cluster.joined import Cluster, RoomWatch, first_line, joined
from heft.cluster.news import Board
from heft.cluster.nodes import Need, require_same_storage
from heft.cluster.worker import STOPPED, order_of, work
from heft.runtime.reporter import Reporter
from heft.text.units import several

MOST_LOSSES = 5
"""How often the process or the node of a run may be lost before the run counts as failed."""
SECONDS_TO_STOP = 120.0
"""For runs to write a checkpoint after Ctrl-C."""
_SECONDS_BETWEEN_LOOKS = 0.5


class OnRay:
    """Does runs on a Ray cluster; see `heft.cluster.jobs.Executor`."""

    is_elsewhere = True

    def __init__(self, options: RayOptions):
        self._options = options
        self._cluster: Cluster | None = None

    @contextmanager
    def ready(self, reporter: Reporter) -> Iterator[None]:
        """Connect, and require that some node has room for a run."""
        with joined(self._options, reporter) as self._cluster:
            yield

    def run(self, jobs: Sequence[Job], directory: Path, reporter: Reporter) -> Iterator[tuple[Job, Failure | None]]:
        """See `Executor`.

        Raises:
            HeftError: a node does not see the directory, or there is no node left that could take a run.
        """
        if not jobs:
            return
        assert self._cluster is not None, "not ready"
        ray, need = self._cluster.ray, self._cluster.need
        require_same_storage(ray, self._cluster.nodes, directory)
        tasks = _Tasks(ray, need, directory, self._options.at_once, list(jobs))
        try:
            yield from tasks.done(reporter)
        finally:
            reporter.runs((), len(jobs), len(jobs))
            tasks.stop(reporter)


@dataclass
class _Tasks:
    """The tasks of one call.

    Attributes:
        waiting: jobs that are not given to Ray yet.
        going: job by the reference of its task.
        losses: by a job's name, how often its process was lost.
    """

    ray: Any
    need: Need
    directory: Path
    at_once: int | None
    waiting: list[Job]
    going: dict[Any, Job] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)
        self._board = self.ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
        self._work = self.ray.remote(num_cpus=self.need.cpus, num_gpus=self.need.gpus, max_retries=0)(work)
        self._room = RoomWatch(self.ray, self.need)
        self._total = len(self.waiting)

    def done(self, reporter: Reporter) -> Iterator[tuple[Job, Failure | None]]:
        """Each job as it ends."""
        ended = 0
        while self.waiting or self.going:
            self._begin()
            ready, _ = self.ray.wait(list(self.going), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
            latest = self._tell(reporter, ended)
            for reference in ready:
                job = self.going.pop(reference)
                is_over, failure = self._result(job, reference, reporter)
                if not is_over:
                    self.waiting.insert(0, job)
                    continue
                ended += 1
                if failure is None:
                    scores = latest[job.name].scores if job.name in latest else ()
                    reporter.note(f"finished, {ended} of {self._total}: {': '.join([job.name, ', '.join(scores)])}")
                yield job, failure
            self._room.look(reporter)

    def stop(self, reporter: Reporter) -> None:
        """Ask every run to write a checkpoint and end, and wait for that."""
        self.waiting.clear()
        for reference in self.going:
            self.ray.cancel(reference)
        if self.going:
            reporter.note(f"stopping {several(len(self.going), 'run')} at the next checkpoint")
            self.ray.wait(list(self.going), num_returns=len(self.going), timeout=SECONDS_TO_STOP)
        self.going.clear()
        self.ray.kill(self._board)

    def _begin(self) -> None:
        while self.waiting and (self.at_once is None or len(self.going) < self.at_once):
            job = self.waiting.pop(0)
            order = order_of(job, self.directory, self.need)
            self.going[self._work.options(name=job.name).remote(order, self._board)] = job

    def _tell(self, reporter: Reporter, ended: int) -> dict:
        latest, said = self.ray.get(self._board.take.remote())
        for kind, text in said:
            getattr(reporter, kind)(text)
        names = [job.name for job in self.going.values()]
        reporter.runs([latest[name] for name in names if name in latest], ended, self._total)
        return latest

    def _result(self, job: Job, reference: Any, reporter: Reporter) -> tuple[bool, Failure | None]:
        """Whether a job is over, and its failure."""
        errors = self.ray.exceptions
        try:
            found = self.ray.get(reference)
        except errors.RayTaskError as error:  # not of the run, which is caught there: its node cannot read the task
            return True, Failure(f"{type(error.cause).__name__}: {error.cause}", str(error))
        except errors.RayError as error:  # the process, its node or its memory is gone
            return self._lost(job, reporter, first_line(error))
        if found == STOPPED:
            return self._lost(job, reporter, "its process was told to end")
        return True, found

    def _lost(self, job: Job, reporter: Reporter, why: str) -> tuple[bool, Failure | None]:
        self.losses[job.name] = losses = self.losses.get(job.name, 0) + 1
        if losses > MOST_LOSSES:
            return True, Failure(f"its process or node was lost {losses} times, the last time: {why}")
        reporter.warn(f"{job.name} was lost ({why}); it goes on from its last checkpoint on a node that has room")
        return False, None
