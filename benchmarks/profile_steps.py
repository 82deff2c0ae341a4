"""Where the time of an optimizer step goes: `heft train` with torch's profiler around some steps of each stage.

    python benchmarks/profile_steps.py [--steps 3] RECIPE [options of heft train]

For each stage, after as many steps that warm up: seconds of a step, seconds of operations on the CPU and of kernels on
a card, how many of both a step has, and the operations that take longest. On a card a step whose kernels are much
shorter than the step waits for Python; one whose kernels fill it needs fewer or better kernels.
"""

import argparse
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile

from heft.cli import main as heft
from heft.training.loop import TrainingLoop

ROWS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3)
    options, arguments = parser.parse_known_args()
    profiled = Profiled(options.steps)
    TrainingLoop._step = profiled.of(TrainingLoop._step)
    sys.argv = ["heft", "train", *arguments]
    heft()


class Profiled:
    """Profiles steps `steps` + 1 to 2 × `steps` of every stage."""

    def __init__(self, steps: int):
        self.steps = steps
        self.activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]

    def of(self, step):
        """The step, profiled where it is its turn."""

        def taken(loop: TrainingLoop, *arguments):
            if loop.progress.step == self.steps:
                self.profiler, self.begun = profile(activities=self.activities), time.perf_counter()
                self.profiler.__enter__()
            result = step(loop, *arguments)
            if loop.progress.step == 2 * self.steps:
                self._end(loop)
            return result

        return taken

    def _end(self, loop: TrainingLoop) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = (time.perf_counter() - self.begun) / self.steps
        self.profiler.__exit__(None, None, None)
        events = self.profiler.key_averages()
        on_card = [each for each in events if each.self_device_time_total > 0]
        cpu = sum(each.self_cpu_time_total for each in events) / 1e6 / self.steps
        card = sum(each.self_device_time_total for each in on_card) / 1e6 / self.steps
        print(f"\nstage {loop.name}: {seconds:.3f} s a step under the profiler; operations on the CPU {cpu:.3f} s,")
        print(f"kernels on a card {card:.3f} s; {sum(each.count for each in events) / self.steps:,.0f} events a step")
        for key in ("self_cpu_time_total", *(["self_device_time_total"] if on_card else [])):
            print(events.table(sort_by=key, row_limit=ROWS, max_name_column_width=50))


if __name__ == "__main__":
    main()
