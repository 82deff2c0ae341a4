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

import torch

from heft.errors import HeftError
from heft.serving.admission import Part, admitted
from heft.serving.catalog import Catalog
from heft.serving.fast import FastWays
from heft.serving.forward import Computed, Passes
from heft.serving.lane import Lane
from heft.serving.leaving import Leaving
from heft.serving.limits import Limits
from heft.serving.prefixes import Prefixes
from heft.serving.requests import Failed, Finished, Generation, Scoring, Work, failure_of
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
        note: told, in words, where they are not; from the engine's thread.
    """

    def __init__(
        self,
        catalog: Catalog,
        limits: Limits | None = None,
        fast: bool = True,
        note: Callable[[str], None] = lambda text: None,
    ):
        self.catalog, self.limits, self.counts = catalog, limits or Limits(), Counts()
        self.prefixes = Prefixes(self.limits.prefix_bytes)
        self._passes = Passes(catalog)
        self.fast = FastWays(catalog, self._passes, fast, note)
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._waiting: deque[Generation | ScoringJob] = deque()
        self._begun: dict[tuple[Generation | ScoringJob, int], torch.Tensor] = {}
        self._lanes: dict[Hashable, Lane] = {}
        self._leaving = Leaving(catalog, self.prefixes)
        self._lock, self._open = threading.Lock(), True
        self._taken: set[Work] = set()  # that have not ended
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
        return max(0, len(self._taken) - self.running)

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
            if len(self._taken) + len(work) > most:
                raise QueueFull(
                    f"{len(self._taken)} requests are running or waiting, and the server takes {most}; ask again later"
                )
            self._taken.update(work)
            for each in work:
                self._inbox.put(each)

    def call(self, run: Callable[[], Any]) -> Future:
        """Run something between two passes, such as loading an adapter; its result, or its error, is in the future."""
        future = _pending()
        with self._lock:
            if not self._open:
                future.set_exception(Ended("the server is ending"))
                return future
            self._inbox.put((run, future))
        return future

    def unload(self, name: str) -> Future:
        """Take a directory's adapters off once no text of theirs runs; requests for them are refused from now on."""
        unloaded = _pending()

        def refused(begun: Future) -> None:
            if begun.exception() is not None:
                unloaded.set_exception(begun.exception())

        self.call(lambda: self._begin_unloading(name, unloaded)).add_done_callback(refused)
        return unloaded

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
        try:
            self.fast.switch_on()
            self._rounds()
        finally:  # also where a fault of ours ends the thread, so that nobody waits for it
            with self._lock:
                self._open = False
            self._lanes = {}
            while not self._inbox.empty():
                item = self._inbox.get()
                if isinstance(item, tuple):
                    item[1].set_exception(Ended("the server is ending"))
            self._leaving.fail_all(Ended("the server is ending"))
            for request in list(self._taken):
                self._end(request, Failed("the server ended", "stopped"))
            self.fast.switch_off()

    def _rounds(self) -> None:
        while True:
            self._take(block=not (self._waiting or self._lanes or self._leaving))
            if self._abandon or not (self._open or self._waiting or self._lanes or not self._inbox.empty()):
                return
            for round_ in (self._drop_abandoned, self._unload, self._begin, self._go_on):
                try:
                    round_()
                except Exception as error:  # whatever a model raises ends requests, not the server
                    self._fail_all(failure_of(error))

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
                if self._leaving.takes(work.served):
                    self._waiting.append(work)
                else:
                    self._end(work, _unloaded(work.served.name))
            elif item is not None:
                self._answer(*item)

    def _answer(self, run: Callable[[], Any], future: Future) -> None:
        try:
            self.fast.switch_off()
            try:
                result = run()
            finally:
                self.fast.switch_on()
        except Exception as error:  # the caller is told
            future.set_exception(error)
        else:
            future.set_result(result)

    def _begin_unloading(self, name: str, unloaded: Future) -> None:
        gone = self._leaving.add(name, unloaded)
        for each in [each for each in self._waiting if each.served.name in gone]:
            self._waiting.remove(each)
            self._end(each, _unloaded(each.served.name))

    def _unload(self) -> None:
        running = {text.work.served.name for lane in self._lanes.values() for text in lane.texts}
        for take_off, unloaded in self._leaving.free(running):
            self._answer(take_off, unloaded)

    def _begin(self) -> None:
        """Compute the prompts of waiting requests, as many as fit: first a prefix, then what others have behind it, and
        the prompts of requests that have come meanwhile."""
        waiting, tokens = list(self._waiting), self.limits.prefill
        seen = set(waiting)
        while waiting and tokens > 0:
            about = (self.limits, self.prefixes, self._begun, self.catalog.each_alone)
            found = admitted(waiting, self.running, tokens, *about)
            for part in found.parts:
                self._compute(part)
            self._take(block=False)
            waiting = [each for each in self._waiting if each in found.postponed or each not in seen]
            seen |= set(waiting)
            tokens -= found.tokens
        self._drop_empty()

    def _compute(self, part: Part) -> None:
        """One pass. Where it fails, its rows are computed one by one, so that it ends no request but the one at fault,
        and fits where memory does not suffice for all."""
        part = part.of([owner in self._waiting for owner in part.owners])  # an earlier pass may have ended some
        if not part.rows:
            return
        self.catalog.switch.to(self.catalog.adapters_of([row.served for row in part.rows]))
        found = _tried(lambda: self._passes.whole(part.rows))
        if isinstance(found, Exception):
            if len(part.rows) > 1:
                for number in range(len(part.rows)):
                    self._compute(part.of([number == each for each in range(len(part.rows))]))
            else:
                self._waiting.remove(part.owners[0])
                self._end(part.owners[0], failure_of(found))
            return
        self._count(part)
        self._keep_prefixes(part, found)
        begun: list[tuple[Generation, Computed]] = []
        for owner, row, result in zip(part.owners, part.rows, found, strict=True):
            self._begun.pop((owner, row.tag), None)
            if row.later:
                self._begun[owner, row.tag] = result.states.matrix()
            elif isinstance(owner, Generation):
                self._waiting.remove(owner)
                begun.append((owner, result))
            elif owner.add(row, result.logits_KV):
                self._waiting.remove(owner)
                self._end(owner, owner.outcome())
        if begun:
            lane = self._lanes.setdefault(part.lane, Lane(self._passes, self.catalog, self._end))
            error = _tried(lambda: lane.join(begun))
            for owner, _ in begun if isinstance(error, Exception) else ():
                self._end(owner, failure_of(error))

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
                        self._end(text.work, failure_of(error))
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
                self.prefixes.add(row.served.reaching, row.ids[:shared], result.states.matrix)

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

    def _end(self, work: Work | ScoringJob, event: Finished | Failed) -> None:
        """Tell a request how it ended, once."""
        request = work.work if isinstance(work, ScoringJob) else work
        self._begun = {key: states for key, states in self._begun.items() if key[0] is not work}
        with self._lock:
            has_ended = request not in self._taken
            self._taken.discard(request)
        if not (has_ended or work.cancelled):
            work.tell(event)

    def _fail_all(self, event: Failed) -> None:
        for each in self._waiting:
            self._end(each, event)
        self._waiting.clear()
        for lane in self._lanes.values():
            for text in lane.leave_all():
                self._end(text.work, event)
        self._lanes = {}


def _pending() -> Future:
    """A future that whoever waits for it cannot cancel, since the engine sets it whatever becomes of them."""
    future: Future = Future()
    future.set_running_or_notify_cancel()
    return future


def _unloaded(name: str) -> Failed:
    return Failed(f"the model {name!r} was unloaded", "input")


def _tried(run: Callable[[], Any]) -> Any:
    """What a computation gives, or the exception that it raised, without what its traceback holds on to."""
    try:
        return run()
    except Exception as error:  # whatever a model raises
        return error.with_traceback(None)
