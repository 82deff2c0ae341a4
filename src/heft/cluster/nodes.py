"""Whether the nodes of a cluster can do runs: enough CPU cores and GPUs, the same heft, and the same storage."""

import os
import platform
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heft import __version__
from heft.cluster.connection import RayOptions
from heft.errors import HeftError
from heft.text.listing import listed

SECONDS_TO_LOOK = 60.0
"""Within which a node has to start a process and look at the storage."""
_SECONDS_TO_BE_SEEN = 10.0
"""A network file system may show a new file to others only after some seconds."""


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Attributes:
        id: Ray's.
        name: of the machine, for people.
        cpus, gpus: that it has, in use or not.
    """

    id: str
    name: str
    cpus: float
    gpus: float

    def room(self, need: "Need") -> int:
        """How many runs it can take at once."""
        counts = [int(self.cpus // need.cpus)]
        if need.gpus:
            counts.append(int(self.gpus) * int(1 / need.gpus + 1e-9))  # 1 // 0.2 is 4
        return min(counts)


@dataclass(frozen=True)
class Need:
    """CPU cores and GPUs of one run."""

    cpus: int
    gpus: float

    @property
    def words(self) -> str:
        """`1 GPU and 4 CPU cores`."""
        cores = f"{self.cpus} CPU core{'s' * (self.cpus != 1)}"
        return f"{self.gpus:g} GPU{'s' * (self.gpus > 1)} and {cores}" if self.gpus else cores


def nodes_of(ray: Any) -> list[Node]:
    """The nodes that are alive."""
    found = []
    for each in ray.nodes():
        if each["Alive"]:
            has = each["Resources"]
            name = f"{each['NodeManagerHostname']} ({each['NodeManagerAddress']})"
            found.append(Node(each["NodeID"], name, has.get("CPU", 0.0), has.get("GPU", 0.0)))
    return found


def need_of(options: RayOptions, nodes: Iterable[Node]) -> Need:
    """What one run takes."""
    gpus = options.gpus_per_run
    if gpus is None:
        gpus = 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0
    return Need(options.cpus_per_run, gpus)


def with_room(need: Need, nodes: Sequence[Node], address: str) -> list[Node]:
    """The nodes that can take a run.

    Raises:
        HeftError: there is none, so that every run would wait for ever.
    """
    found = [node for node in nodes if node.room(need)]
    if not found:
        has = "; ".join(f"{node.name}: {node.cpus:g} CPU cores, {node.gpus:g} GPUs" for node in nodes)
        raise HeftError(
            f"--ray {address}: a run asks for {need.words}, and no node of the cluster has that ({has or 'no node'});"
            " ask for less with --gpus-per-run and --cpus-per-run, or add a node"
        )
    return found


@dataclass(frozen=True)
class Seen:
    """What a process on a node finds there: versions, and which of the folders it does not see."""

    versions: Mapping[str, str]
    unseen: tuple[str, ...]


def look(folder: str, working: str, token: str, mark: str) -> Seen:
    """On a node: look for the file `token`, leave the file `mark` beside it, and find the working directory."""
    until, unseen = time.monotonic() + _SECONDS_TO_BE_SEEN, []
    while not (Path(folder) / token).exists() and time.monotonic() < until:
        with suppress(OSError):
            os.listdir(folder)  # some network file systems look again only then
        time.sleep(0.2)
    if (Path(folder) / token).exists():
        with suppress(OSError):
            (Path(folder) / mark).write_text(socket.gethostname())
    else:
        unseen.append(folder)
    if not Path(working).is_dir():
        unseen.append(working)
    return Seen(versions(), tuple(unseen))


def versions() -> dict[str, str]:
    """Of what has to be the same on all nodes."""
    return {"heft": __version__, "Python": ".".join(platform.python_version_tuple()[:2])}


def require_same_storage(ray: Any, nodes: Sequence[Node], directory: Path) -> None:
    """Require that each node sees the files of this machine and the other way round, and has the same heft.

    Raises:
        HeftError: some do not; nothing is left in the directory.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder, token = directory.resolve(), f".seen-{secrets.token_hex(8)}"
    marks = {node.id: f"{token}-{number}" for number, node in enumerate(nodes)}
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / token).write_text("heft looks whether all nodes see this directory")
        there = {
            node.id: ray.remote(look)
            .options(num_cpus=0, max_retries=1, scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False))
            .remote(str(folder), os.getcwd(), token, marks[node.id])
            for node in nodes
        }
        faults = [_fault(ray, node, there[node.id], folder / marks[node.id], folder) for node in nodes]
    finally:
        for name in (token, *marks.values()):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()  # where it is empty
    if any(faults):
        raise HeftError("\n".join(each for each in faults if each))


def _fault(ray: Any, node: Node, answer: Any, mark: Path, folder: Path) -> str | None:
    """What is wrong with a node, in words."""
    try:
        seen = ray.get(answer, timeout=SECONDS_TO_LOOK)
    except ray.exceptions.GetTimeoutError:
        return f"{node.name} does not answer within {SECONDS_TO_LOOK:g} s; remove it from the cluster, or wait for it"
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        return f"{node.name} cannot run heft ({last}); install heft {__version__} there as it is here"
    unlike = {what: own for what, own in versions().items() if seen.versions.get(what) != own}
    if unlike:
        other = [f"{what} {seen.versions.get(what)} (here {own})" for what, own in unlike.items()]
        return f"{node.name} has {', '.join(other)}; install there what is here"
    if seen.unseen:
        return (
            f"{node.name} does not see {listed(seen.unseen)}, where runs are written and taken up again; put it on"
            " storage that all nodes have under one path (such as NFS), or give another with --output DIR"
        )
    until = time.monotonic() + _SECONDS_TO_BE_SEEN
    while not mark.exists() and time.monotonic() < until:
        with suppress(OSError):
            os.listdir(folder)
        time.sleep(0.2)
    return None if mark.exists() else f"{node.name} cannot write to {folder}, or this machine does not see what it does"
