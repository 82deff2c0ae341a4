"""A cluster with this process as its driver, and what one run or one trial takes of it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from heft.cluster.connection import RayOptions, connected
from heft.cluster.nodes import Need, Node, need_of, nodes_of, with_room
from heft.errors import HeftError
from heft.runtime.reporter import Reporter
from heft.text.units import several

SECONDS_WITHOUT_A_NODE = 600.0
"""How long work waits for a node once none is left that can take it."""
SECONDS_BETWEEN_COUNTS = 5.0


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is a driver of.

    Attributes:
        ray: the module.
        need: of one run.
        nodes: those that can take one.
        most: how many go on at once at most.
    """

    ray: Any
    need: Need
    nodes: Sequence[Node]
    most: int


@contextmanager
def joined(options: RayOptions, reporter: Reporter, what: str = "run") -> Iterator[Cluster]:
    """Meanwhile this process is a driver of the cluster; `what` is done there, for a person.

    Raises:
        HeftError: there is no such cluster, or no node of it has room.
    """
    reporter.note(f"connecting to Ray ({options.address})")
    with connected(options.address) as ray:
        nodes = nodes_of(ray)
        need = need_of(options, nodes)
        able = with_room(need, nodes, options.address)
        room = sum(node.room(need) for node in able)
        asked = "" if options.at_once is None else f", {options.at_once} asked for at most"
        reporter.note(f"{several(len(able), 'node')}; a {what} gets {need.words}: room for {room} at once{asked}")
        yield Cluster(ray, need, able, room if options.at_once is None else min(room, options.at_once))


class RoomWatch:
    """Sees, while something waits on a cluster, whether a node is left that can take it.

    Args:
        ray: the module.
        need: of one run.
    """

    def __init__(self, ray: Any, need: Need):
        self._ray, self._need = ray, need
        self._without: float | None = None
        self._counted = time.monotonic()

    def look(self, reporter: Reporter) -> None:
        """Wait for some time once no node is left, then give up; to be called again and again.

        Raises:
            HeftError: none came.
        """
        now = time.monotonic()
        if now - self._counted < SECONDS_BETWEEN_COUNTS:
            return
        self._counted = now
        if any(node.room(self._need) for node in nodes_of(self._ray)):
            self._without = None
            return
        if self._without is None:
            self._without = now
            minutes = SECONDS_WITHOUT_A_NODE / 60
            reporter.warn(f"no node is left that has {self._need.words}; waiting {minutes:g} minutes for one")
        if now - self._without > SECONDS_WITHOUT_A_NODE:
            raise HeftError(
                f"no node of the cluster has {self._need.words} any more; what is finished is kept, and the same"
                " command goes on once there is one"
            )


def first_line(error: Exception) -> str:
    """The first line of an error of Ray, whose others are advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
