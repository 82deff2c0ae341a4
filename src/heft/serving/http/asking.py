"""Between HTTP's event loop and the engine's thread: requests go in, events come out; a client may leave."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from fastapi import Request

from heft.serving.engine import Engine
from heft.serving.http.errors import ApiError, of_failure
from heft.serving.requests import Event, Failed, Piece, Work

CLIENT_LEFT = 499


class Asking:
    """Some requests to the engine that are one of HTTP's.

    Raises:
        QueueFull: the engine has no room for them.
    """

    def __init__(self, engine: Engine, work: Sequence[Work]):
        self._work, self._events = work, asyncio.Queue()
        loop = asyncio.get_running_loop()
        for index, each in enumerate(work):
            each.tell = self._teller(loop, index)
        engine.submit(work)

    def _teller(self, loop: asyncio.AbstractEventLoop, index: int):
        def tell(event: Event) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: no one waits any more
                loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return tell

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Each event with the index of its request, until all have ended.

        Raises:
            ApiError: one of them failed; the others are given up.
        """
        left = len(self._work)
        try:
            while left:
                index, event = await self._events.get()
                if isinstance(event, Failed):
                    raise of_failure(event)
                left -= not isinstance(event, Piece)
                yield index, event
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Give all up that has not ended."""
        for each in self._work:
            each.cancel()

    async def all(self, request: Request) -> list[list[Event]]:
        """Every event of each request, once all have ended.

        Raises:
            ApiError: one failed, or the client left.
        """
        gathering = asyncio.ensure_future(self._gather())
        leaving = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait([gathering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if gathering.done():
                return gathering.result()
            raise ApiError(CLIENT_LEFT, "the client left")
        finally:
            for task in (gathering, leaving):
                task.cancel()
            self.cancel()

    async def _gather(self) -> list[list[Event]]:
        found: list[list[Event]] = [[] for _ in self._work]
        async for index, event in self.events():
            found[index].append(event)
        return found


async def _left(request: Request) -> None:
    """Wait until the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
