"""Jobs in forked processes, a few at once, each with a time-out and a file of what it printed."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

_FRAMES = 6


def run(
    jobs: Sequence[str],
    work: Callable[[str], dict],
    folder: Path,
    seconds: float,
    workers: int,
    done: Callable[[str, dict], None],
) -> dict[str, dict]:
    """What each job gave, which is also in `folder` as JSON; a job that died or took too long gives its `error`."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting, running, results = list(jobs), {}, {}
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop(0)
            running[_start(job, work, folder)] = (job, time.monotonic())
        time.sleep(0.02)
        for child, (job, start) in list(running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            late = not ended and time.monotonic() - start > seconds
            if late:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            if ended or late:
                del running[child]
                path = folder / f"{job}.json"
                fault = f"took more than {seconds:.0f} seconds" if late else f"died with status {status}"
                results[job] = json.loads(path.read_text()) if path.exists() and not late else {"error": fault}
                path.write_text(json.dumps(results[job]))
                done(job, results[job])
    return results


def _start(job: str, work: Callable[[str], dict], folder: Path) -> int:
    (folder / f"{job}.json").unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    log = os.open(folder / f"{job}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        found = work(job)
    except BaseException as error:
        traceback.print_exc()
        found = {"error": in_words(error), "trace": frames(error)}
    (folder / f"{job}.json").write_text(json.dumps(found, default=str))
    sys.stdout.flush()
    os._exit(0)


def in_words(error: BaseException) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def frames(error: BaseException) -> list[str]:
    """The last places that an error came through."""
    stack = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in stack]
