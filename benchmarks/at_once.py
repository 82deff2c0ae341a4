"""Runs of a study side by side: what a card, or a machine of many cores, has room for when the model is small."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import get_context
from pathlib import Path

from heft.cluster.alone import do
from heft.cluster.jobs import Executor, Failure, Job
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
        return nullcontext()

    def run(self, jobs: Sequence[Job], directory: Path, reporter: Reporter) -> Iterator[tuple[Job, Failure | None]]:
        with ProcessPoolExecutor(self.processes, mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(do, job, Reporter()): job for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()


def compared(study: Path, processes: int) -> str:
    """Run what is not finished of a study, and compare: the text of its comparison.md."""
    executor: Executor | None = AtOnce(processes) if processes > 1 else None
    result = run_study(study, Printing(), executor)
    for (arm, seed), words in result.failed.items():
        print(f"{arm}, seed {seed} failed: {words}", flush=True)
    return (result.directory / "comparison.md").read_text()


class Printing(Reporter):
    """Prints notes and warnings."""

    def note(self, text: str) -> None:
        print(text, flush=True)

    warn = note
