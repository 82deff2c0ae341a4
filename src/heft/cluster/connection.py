"""The way to a Ray cluster: one of this machine alone, or one that is there already."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from heft.errors import HeftError

LOCAL = "local"
SECONDS_TO_ANSWER = 20.0
"""Within which a cluster has to answer."""
_SECONDS_TO_START = 10.0
"""For the process that asks."""
_LEAST_GPU = 0.0001
"""Ray counts in no smaller shares of one."""
_OBJECT_STORE = 100 * 2**20
"""Bytes of a local cluster's object store: what heft sends between processes is small."""


@dataclass(frozen=True)
class RayOptions:
    """How runs are done on a Ray cluster.

    Attributes:
        address: "local", "auto" or HOST:PORT.
        gpus_per_run: GPUs of one run, 1 or less; None for 1 where the cluster has any, else 0.
        cpus_per_run: CPU cores of one run, and its threads.
        at_once: how many runs at most go on at the same time; None for as many as there is room for.

    Raises:
        HeftError: one of them cannot be.
    """

    address: str
    gpus_per_run: float | None = None
    cpus_per_run: int = 1
    at_once: int | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.address.startswith("ray://"):
            faults.append(
                f"--ray {self.address} is Ray Client, whose process need not see the cluster's storage; start heft on a"
                " node of the cluster with --ray auto"
            )
        elif self.address not in (LOCAL, "auto") and _host_and_port(self.address) is None:
            faults.append(f"--ray {self.address}: expected local, auto or HOST:PORT, such as 10.0.0.1:6379")
        if self.gpus_per_run not in (None, 0) and not _LEAST_GPU <= self.gpus_per_run <= 1:
            faults.append(
                f"--gpus-per-run {self.gpus_per_run:g}: expected 0, or {_LEAST_GPU} to 1 (0.5 for two runs on a GPU); a"
                " run is one process, which uses one GPU"
            )
        if self.cpus_per_run < 1:
            faults.append(f"--cpus-per-run {self.cpus_per_run}: expected 1 or more")
        if self.at_once is not None and self.at_once < 1:
            faults.append(f"--runs-at-once {self.at_once}: expected 1 or more")
        if faults:
            raise HeftError("\n".join(faults))


def _host_and_port(address: str) -> tuple[str, int] | None:
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() and 0 < int(port) < 65536 else None


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Meanwhile this process is a driver of the cluster; gives the module `ray`.

    A connection that this process has already is used, and kept.

    Raises:
        HeftError: Ray is not installed, or the cluster does not answer or does not take this process.
    """
    if find_spec("ray") is None:
        raise HeftError("--ray needs Ray, which is not installed: pip install 'heft[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anyone
    import ray

    if ray.is_initialized():
        own = ray.get_runtime_context().gcs_address
        if address not in (LOCAL, "auto", own):
            raise HeftError(f"--ray {address}: this process is connected to Ray at {own} already; leave that first")
        yield ray
        return
    if address != LOCAL:
        _require_answer(address)
    with _signals_kept():
        _connect(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE} if address == LOCAL else {}
    try:
        ray.init(address=address, **own, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise HeftError(f"--ray {address}: {error}") from error


def _require_answer(address: str) -> None:
    """Ask the cluster for a sign of life; Ray itself would wait for minutes, and then end the process."""
    place = _host_and_port(address)
    if place is not None:
        try:
            socket.create_connection(place, timeout=SECONDS_TO_ANSWER).close()
        except (OSError, UnicodeError) as error:  # UnicodeError: of a name that no machine can have
            raise HeftError(f"--ray {address}: nobody answers there ({error}); {_ADVICE}") from None
    code = "import sys; from ray.scripts.scripts import cli; sys.argv[0] = 'ray'; cli()"
    command = [sys.executable, "-c", code, "health-check", *(["--address", address] if place else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER + _SECONDS_TO_START)
    except subprocess.TimeoutExpired:
        raise HeftError(f"--ray {address}: no Ray cluster answers there; {_ADVICE}") from None
    if done.returncode:
        lines = [line.strip() for line in f"{done.stderr}\n{done.stdout}".splitlines() if line.strip()]
        said = f" ({lines[-1]})" if lines else ""
        raise HeftError(f"--ray {address}: no Ray cluster answers there{said}; {_ADVICE}")


_ADVICE = (
    "start one with `ray start --head` on one machine and `ray start --address HOST:6379` on the others, or give --ray"
    " local for this machine alone"
)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; afterwards it is as it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
