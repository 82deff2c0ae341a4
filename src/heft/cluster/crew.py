"""Processes on the nodes of a cluster that load something once and then do many pieces of work."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from heft.cluster.joined import Cluster, RoomWatch, first_line
from heft.errors import HeftError
from heft.runtime.reporter import Reporter

MOST_LOSSES = 5
"""How many processes may be lost in a row, none doing its work."""


class Crew:
    """Actors of Ray, begun as work comes, as many as the cluster has room for.

    Args:
        cluster: that they are on.
        member: their class, with a method `work` that takes a piece of work; pieces do not depend on who does them.
        arguments: of its constructor.
    """

    def __init__(self, cluster: Cluster, member: type, *arguments: Any):
        need, ray = cluster.need, cluster.ray
        self._cluster, self._arguments = cluster, arguments
        self._member = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus, max_restarts=0)(member)
        self._members: list[Any] = []
        self._idle: list[Any] = []

    def done(self, pieces: Sequence[Any], reporter: Reporter, what: str) -> Iterator[tuple[int, Any]]:
        """The number and the result of each piece, as they are done; one whose process is lost is done by another.

        Raises:
            HeftError: as a piece raises it; or processes are lost again and again, or no node is left for them.
        """
        ray, waiting, going, losses = self._cluster.ray, list(enumerate(pieces)), {}, 0
        ended, room = 0, RoomWatch(ray, self._cluster.need)
        with reporter.progress(what, len(pieces)):
            while waiting or going:
                while waiting and (member := self._free()) is not None:
                    number, piece = waiting.pop(0)
                    going[member.work.remote(piece)] = member, number, piece
                ready, _ = ray.wait(list(going), num_returns=1, timeout=1.0)
                room.look(reporter)
                for reference in ready:
                    member, number, piece = going.pop(reference)
                    result, lost = self._result(reference)
                    if lost is not None:
                        self._members.remove(member)
                        waiting.insert(0, (number, piece))
                        losses += 1
                        self._say_lost(losses, lost, reporter)
                        continue
                    losses, ended = 0, ended + 1
                    self._idle.append(member)
                    reporter.step(what, ended, len(pieces))
                    yield number, result

    def end(self) -> None:
        """End all of them, whatever they do."""
        for member in self._members:
            self._cluster.ray.kill(member)
        self._members.clear()
        self._idle.clear()

    def _free(self) -> Any:
        """One that has nothing to do, or a new one where there is room."""
        if self._idle:
            return self._idle.pop()
        if len(self._members) >= self._cluster.most:
            return None
        self._members.append(self._member.remote(*self._arguments))
        return self._members[-1]

    def _result(self, reference: Any) -> tuple[Any, str | None]:
        """What a piece came to, or how its process was lost."""
        errors = self._cluster.ray.exceptions
        try:
            return self._cluster.ray.get(reference), None
        except errors.RayTaskError as error:
            if isinstance(error.cause, HeftError):
                raise HeftError(str(error.cause)) from None
            raise
        except errors.RayError as error:
            if "creation task" in first_line(error):  # no process of a crew can begin, so another would not either
                raise HeftError(
                    f"processes cannot begin on the cluster: {str(error).strip().splitlines()[-1]}"
                ) from error
            return None, first_line(error)

    def _say_lost(self, losses: int, why: str, reporter: Reporter) -> None:
        if losses > MOST_LOSSES:
            raise HeftError(f"processes of the cluster were lost {losses} times in a row, the last time: {why}")
        reporter.warn(f"a process of the cluster was lost ({why}); its work is done again")


@contextmanager
def gathered(cluster: Cluster, member: type, *arguments: Any) -> Iterator[Crew]:
    """A crew, which ends with the block."""
    crew = Crew(cluster, member, *arguments)
    try:
        yield crew
    finally:
        crew.end()
