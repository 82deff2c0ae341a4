"""Runs of a study side by side: what a card, or a machine of many cores, has room for when the model is small."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Thread

from heft.cli.show import ConsoleReporter
from heft.cluster.alone import do
from heft.cluster.jobs import Executor, Failure, Job, failure_of
from heft.runtime.reporter import Reporter
from heft.study.runner import run_study


class AtOnce:
    """Does so many runs at a time, each in a process of its own; see `heft.cluster.jobs.Executor`.

    On one card processes take turns, unless NVIDIA's MPS serves them (benchmarks/CUDA.md); on a CPU give each one
    thread (OMP_NUM_THREADS=1).
    """

    is_elsewhere = False

    def __init__(self, processes: int):
        self.processes = processes

    def ready(self, reporter: Reporter) -> AbstractContextManager[None]:
        """Nothing is needed."""
        return nullcontext()

    def run(self, jobs: Sequence[Job], directory: Path, reporter: Reporter) -> Iterator[tuple[Job, Failure | None]]:
        """See `Executor`; a process that dies, of memory say, takes those that run beside it with it."""
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.processes, spawn, end_with_parent) as pool:
            futures = {pool.submit(do, job, Reporter()): job for job in jobs}
            for future in as_completed(futures):
                died = future.exception()
                yield futures[future], future.result() if died is None else failure_of(died)


def end_with_parent() -> None:
    """End this process as soon as the one that began it is gone."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def compared(study: Path, processes: int) -> str:
    """Run what is not finished of a study, and compare: the text of its comparison.md."""
    executor: Executor | None = AtOnce(processes) if processes > 1 else None
    return (run_study(study, ConsoleReporter(), executor).directory / "comparison.md").read_text()
