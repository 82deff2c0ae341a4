"""Runs one after the other, in this process."""

import ctypes
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from heft.cluster.jobs import Failure, Job, failure_of
from heft.run.train import train
from heft.runtime.reporter import Reporter


class InThisProcess:
    """Does runs one after the other; see `heft.cluster.jobs.Executor`."""

    is_elsewhere = False

    def ready(self, reporter: Reporter) -> AbstractContextManager[None]:
        """Nothing is needed."""
        return nullcontext()

    def run(self, jobs: Sequence[Job], directory: Path, reporter: Reporter) -> Iterator[tuple[Job, Failure | None]]:
        """See `Executor`."""
        free_memory()
        for number, job in enumerate(jobs, start=1):
            reporter.note(f"run {number} of {len(jobs)}: {job.name}")
            yield job, do(job, reporter)


def do(job: Job, reporter: Reporter) -> Failure | None:
    """Begin a run or go on with it, and free its memory; why it is not finished, if it is not."""
    failure = None
    try:
        train(job.recipe, reporter, resume=True, base_from=job.base_from)
    except Exception as error:  # what stops one run, such as memory, need not stop the others
        failure = failure_of(error)
    free_memory()
    return failure


def free_memory() -> None:
    """Free the memory of the last run, so that each run's peak is its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
