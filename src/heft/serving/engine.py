"""The engine: a thread that owns the model and gives every running text its next token, pass by pass.

Between passes new requests join, finished and abandoned ones leave, and adapters are loaded and dropped. Requests for
different adapters share passes; those that cannot (`Served.alone`) form lanes of their own, which take turns.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from heft.errors import HeftError
from heft.runtime.memory_errors import is_out_of_memory
from heft.serving.admission import Part, admitted
from heft.serving.catalog import Catalog
from heft.serving.fast import FastWays
from heft.serving.forward import Computed, Passes
from heft.serving.lane import Lane
from heft.serving.limits import Limits
from heft.serving.prefixes import Prefixes
from heft.serving.requests import Failed, Finished, Generation, Scoring, Work
from heft.serving.scoring import ScoringJob

_IDLE = 0.5
"""Seconds after which an idle engine looks whether waiting requests are late."""


class QueueFull(HeftError):
    """So many requests wait that one more would not be answered in time."""


class Ended(HeftError):
    """The engine takes no more requests, since it is ending."""


@dataclass
class Counts:
    """What has happened since the start, for metrics."""

    passes: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    mixed: int = 0
    """Passes that had rows of more than one model."""


class Engine:
    """Runs requests for a catalog. `submit`, `call` and `close` may be called from any thread.

    Args:
        catalog: what can be asked for; the engine's thread alone uses its model.
        limits: None for the defaults.
        fast: whether the ways of `heft.serving.fast` are taken where they give what the plain ones give.
    """

    def __init__(self, catalog: Catalog, limits: Limits | None = None, fast: bool = True):
        self.catalog, self.limits, self.counts = catalog, limits or Limits(), Counts()
        self.prefixes = Prefixes(self.limits.prefix_bytes)
        self._passes = Passes(catalog)
        self.fast = FastWays(catalog, self._passes, fast)
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._waiting: deque[Generation | ScoringJob] = deque()
        self._lanes: dict[Hashable, Lane] = {}
        self._lock, self._open, self._taken = threading.Lock(), True, 0
        self._abandon = False
        self._thread = threading.Thread(target=self._run, name="heft-engine", daemon=True)

    def start(self) -> "Engine":
        """Begin to answer."""
        self._thread.start()
        return self

    @property
    def running(self) -> int:
        """Texts that get a token in every round."""
        return sum(len(lane.texts) for lane in list(self._lanes.values()))

    @property
    def waiting(self) -> int:
        """Requests that have been taken and are not yet running."""
        return max(0, self._taken - self.running)

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    def submit(self, work: Sequence[Work]) -> None:
        """Take requests, all or none.

        Raises:
            QueueFull: as many wait as may.
            Ended: the engine is ending.
        """
        with self._lock:
            if not self._open:
                raise Ended("the server is ending and takes no more requests")
            most = self.limits.queue + self.limits.batch
            if len(work) > most:
                raise HeftError(f"{len(work)} texts are asked for at once, and the server takes {most}; ask for fewer")
            if self._taken + len(work) > most:
                raise QueueFull(
                    f"{self._taken} requests are running or waiting, and the server takes {most}; ask again later"
                )
            self._taken += len(work)
            for each in work:
                self._inbox.put(each)

    def call(self, run: Callable[[], Any]) -> Future:
        """Run something between two passes, such as loading an adapter; its result, or its error, is in the future."""
        future: Future = Future()
        with self._lock:
            if not self._open:
                future.set_exception(Ended("the server is ending"))
                return future
            self._inbox.put((run, future))
        return future

    def unload(self, name: str) -> Future:
        """Take a directory's adapters off once no text of theirs runs; until then nothing new joins."""
        return self.call(lambda: self._unload(name))

    def close(self, seconds: float = 30.0) -> None:
        """Finish what runs and waits, for so long at most, and end."""
        with self._lock:
            self._open = False
            self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(seconds)
            self._abandon = True
            self._thread.join()

    def _run(self) -> None:
        self.fast.switch_on()
        while True:
            self._take(block=not (self._waiting or self._lanes))
            if self._abandon or not (self._open or self._waiting or self._lanes or not self._inbox.empty()):
                break
            self._drop_abandoned()
            for round_ in (self._begin, self._go_on):
                try:
                    round_()
                except Exception as error:  # whatever a model raises ends the requests it was about, not the server
                    self._fail_all(_failure(error))
        self._take(block=False)
        self._fail_all(Failed("the server ended", "stopped"))

    def _take(self, block: bool) -> None:
        """Move what has come to the waiting ones, and run calls."""
        while True:
            try:
                item = self._inbox.get(block, _IDLE)
            except queue.Empty:
                return
            block = False
            if isinstance(item, Generation | Scoring):
                work = ScoringJob(item) if isinstance(item, Scoring) else item
                if self.catalog.find(work.served.name) is work.served:
                    self._waiting.append(work)
                else:  # its adapters went while the request was on its way
                    self._end(work, _unloaded(work.served.name))
            elif item is not None:
                self._answer(*item)

    def _answer(self, run: Callable[[], Any], future: Future) -> None:
        result, error = None, None
        self.fast.switch_off()
        try:
            result = run()
        except Exception as raised:  # the caller is told
            error = raised
        self.fast.switch_on()
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def _unload(self, name: str) -> None:
        gone = {each.name for each in self.catalog.served_of(name)}
        while any(text.work.served.name in gone for lane in self._lanes.values() for text in lane.texts):
            self._drop_abandoned()
            self._go_on()
        adapters = {adapter for each in gone for adapter in self.catalog.served[each].adapters}
        self.catalog.unload(name)
        self.prefixes.forget(tuple(adapters))
        for each in [each for each in self._waiting if each.served.name in gone]:
            self._waiting.remove(each)
            self._end(each, _unloaded(each.served.name))

    def _begin(self) -> None:
        """Compute the prompts of waiting requests, as many as fit."""
        chosen = admitted(self._waiting, self.running, self.limits, self.prefixes, self.catalog.each_alone)
        for part in chosen:
            self.catalog.switch.to(self.catalog.adapters_of([row.served for row in part.rows]))
            try:
                computed = self._passes.whole(part.rows)
            except Exception as error:
                for each in part.owners:
                    self._end(each, _failure(error))
                    if each in self._waiting:
                        self._waiting.remove(each)
                continue
            self._count(part)
            self._keep_prefixes(part, computed)
            begun: list[tuple[Generation, Computed]] = []
            for owner, row, result in zip(part.owners, part.rows, computed, strict=True):
                if isinstance(owner, Generation):
                    self._waiting.remove(owner)
                    begun.append((owner, result))
                elif owner.add(row, result.logits_KV):
                    self._waiting.remove(owner)
                    self._end(owner, owner.outcome())
            if begun:
                lane = self._lanes.setdefault(part.lane, Lane(self._passes, self.catalog, self._end))
                lane.join(begun)
        self._drop_empty()

    def _go_on(self) -> None:
        """One more token for every running text."""
        for lane in list(self._lanes.values()):
            if lane.texts:
                self.catalog.switch.to(self.catalog.adapters_of([text.work.served for text in lane.texts]))
                self.counts.passes += 1
                self.counts.mixed += len({text.work.served.name for text in lane.texts}) > 1
                self.counts.new_tokens += len(lane.texts)
                try:
                    lane.step()
                except Exception as error:
                    for text in lane.leave_all():
                        self._end(text.work, _failure(error))
        self._drop_empty()

    def _count(self, part: Part) -> None:
        self.counts.passes += 1
        self.counts.prompt_tokens += sum(row.new for row in part.rows)
        self.counts.mixed += len({row.served.name for row in part.rows}) > 1
        for row in part.rows:
            self.prefixes.count(len(row.ids) - row.new, len(row.ids))

    def _keep_prefixes(self, part: Part, computed: Sequence[Computed]) -> None:
        for row, result in zip(part.rows, computed, strict=True):
            shared = max(0, row.prompt - row.served.tail)
            if self.prefixes.most_bytes:
                self.prefixes.add(row.served.reaching, row.ids[:shared], result.states_LW)

    def _drop_abandoned(self) -> None:
        for each in [each for each in self._waiting if each.cancelled or each.is_late]:
            self._waiting.remove(each)
            self._end(each, Failed("the request took longer than the server allows", "timeout"))
        for lane in self._lanes.values():
            for work in lane.leave_if(lambda work: work.cancelled or work.is_late):
                self._end(work, Failed("the request took longer than the server allows", "timeout"))
        self._drop_empty()

    def _drop_empty(self) -> None:
        self._lanes = {key: lane for key, lane in self._lanes.items() if lane.texts}

    def _end(self, work: Generation | ScoringJob, event: Finished | Failed) -> None:
        with self._lock:
            self._taken -= 1
        if not work.cancelled:
            work.tell(event)

    def _fail_all(self, event: Failed) -> None:
        for each in self._waiting:
            self._end(each, event)
        self._waiting.clear()
        for lane in self._lanes.values():
            for text in lane.leave_all():
                self._end(text.work, event)
        self._lanes = {}


def _unloaded(name: str) -> Failed:
    return Failed(f"the model {name!r} was unloaded", "input")


def _failure(error: Exception) -> Failed:
    if is_out_of_memory(error):
        return Failed(
            "memory did not suffice for the batch; ask for fewer tokens, or start the server with --batch", "memory"
        )
    if isinstance(error, HeftError):
        return Failed(str(error), "input")
    return Failed(f"{type(error).__name__}: {error}")
