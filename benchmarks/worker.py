"""The measured side: a process that loads once and then does pieces of work when asked.

One JSON object a line comes in on standard input, one goes out on standard output:

    {"do": "check"}            → {"losses": [...]}                    first steps on the first batch, from a known start
    {"do": "run", "block": 2}  → {"seconds": ..., "examples": ..., …}  the rows of block 2
    {"do": "memory"}           → {"loaded_bytes": ..., "peak_bytes": ...}

A reply of {"error": ...} says what went wrong. Whatever libraries print goes to standard error. Only the standard
library is imported here at the start, so that all peers' environments can run this file.
"""

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

Handler = Callable[[dict], dict]


def serve(load: Callable[[dict], dict[str, Handler]]) -> None:
    """Load with the job that the command line gives as JSON, say so, then answer requests until input ends.

    Args:
        load: takes the job, returns what can be asked and who answers it.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library's print must not end up between two replies
    job = json.loads(sys.argv[1])

    def reply(message: dict) -> None:
        print(json.dumps(message), file=replies, flush=True)

    try:
        prepare(job)
        handlers = load(job)
        memory = Memory(job["device"])
        handlers.setdefault("memory", lambda request: memory.report())
        reply({"ready": True, "versions": versions(job["packages"])})
    except Exception:
        reply({"error": traceback.format_exc()})
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply(handlers[request["do"]](request))
        except Exception:
            reply({"error": traceback.format_exc()})


def prepare(job: dict) -> None:
    """Threads and randomness, the same for everybody."""
    import torch

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)


def versions(packages: list[str]) -> dict[str, str]:
    """Versions of the packages, as installed."""
    from importlib.metadata import version

    return {name: version(name) for name in packages}


def read_rows(job: dict) -> list[dict]:
    """The job's rows: `{"prompt": ids, "answer": ids, "choices": [ids, …]}` each."""
    with Path(job["rows"]).open() as lines:
        return [json.loads(line) for line in lines]


def block(rows: list, job: dict, request: dict) -> list:
    """The rows of a request's block: `block_rows` in a row, from the start again after the last."""
    size = min(job["block_rows"], len(rows))
    start = request["block"] * size % (len(rows) - size + 1)
    return rows[start : start + size]


def timed(work: Callable[[], object], device: str) -> tuple[float, object]:
    """Seconds that the work took, and what it returned; on CUDA, until the device is done."""
    _synchronize(device)
    start = time.perf_counter()
    result = work()
    _synchronize(device)
    return time.perf_counter() - start, result


def _synchronize(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


class Memory:
    """Memory now, at the moment of making this, and the highest since: the device's on CUDA, else the process's."""

    def __init__(self, device: str):
        self._device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            self._loaded = torch.cuda.memory_allocated()
        else:
            self._peak_was_reset = _reset_peak()
            self._loaded = _resident_bytes()

    def report(self) -> dict:
        """`loaded_bytes` at the start and `peak_bytes` since; the peak of all time where it cannot be reset."""
        if self._device == "cuda":
            import torch

            return {"loaded_bytes": self._loaded, "peak_bytes": torch.cuda.max_memory_allocated()}
        peak = _status_bytes("VmHWM") if self._peak_was_reset else _peak_of_all_time()
        return {"loaded_bytes": self._loaded, "peak_bytes": peak}


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident_bytes() -> int:
    try:
        return _status_bytes("VmRSS")
    except OSError:
        return _peak_of_all_time()


def _peak_of_all_time() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
