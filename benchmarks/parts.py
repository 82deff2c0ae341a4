"""Figures of heft's parts: the machine's matrix rate, orthonormality's time, the start of the command line."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from envs import CannotBuild
from peers import Peer, PeerFailed

RANKS = (4, 8)
MACHINE = {"stage": "machine", "rank": 8, "rows": "train"}


def measure_parts(start: Callable[[str, dict], Peer], quick: bool) -> dict:
    """`matmul`, `orthonormal` (seconds by rank), `orthonormal_pyreft` (rank 8) and `help_seconds`.

    Args:
        start: starts a peer by its name with a job.
        quick: fewer repetitions.
    """
    repeats = 5 if quick else 30
    parts: dict = {"help_seconds": _help_seconds(3 if quick else 11)}
    with start("heft", MACHINE) as own:
        parts["matmul"] = own.ask("matmul")
        parts["orthonormal"] = {
            str(rank): own.ask("orthonormal", rank=rank, repeats=repeats)["seconds"] for rank in RANKS
        }
    try:
        with start("pyreft", {"stage": "fine", "rank": 8, "rows": "train", "first": 0, "last": 7}) as peer:
            parts["orthonormal_pyreft"] = peer.ask("orthonormal", repeats=repeats)["seconds"]
    except (CannotBuild, PeerFailed) as error:
        print(error, file=sys.stderr)
    return parts


def _help_seconds(repeats: int) -> list[float]:
    """Wall time of `heft --help`, started anew each time."""
    command = [str(Path(sys.executable).parent / "heft"), "--help"]
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return times[1:]  # the first one fills the disk cache
