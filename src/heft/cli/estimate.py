"""How fast work goes and how long it will take: costs from before the run, scaled by what was measured so far.

A piece of work is scaled by its own speed in the later half of its steps so far, since first steps warm up and fill
caches; one that is to come by the speed of the last of its kind, or of any kind where that has not been seen. Costs are
FLOPs; where some piece of a run has none counted, tokens, three for one in training (a backward pass costs two forward
passes).
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from heft.runtime.reporter import Piece

_BACKWARD = 3.0
_FEW_TOKENS = 3.0
"""How much longer a FLOP takes behind cached prefixes, where steps have few tokens: 2.4 to 3.6 on two cores."""


@dataclass
class _Now:
    """The piece that runs, and when how many of its steps were done; the first entry is its start."""

    piece: Piece
    total: int
    history: list[tuple[int, float]]

    @property
    def done(self) -> int:
        return self.history[-1][0]


class Estimate:
    """Hears of the pieces and their steps, and says what is left.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._ahead: list[Piece] = []
        self._now: _Now | None = None
        self._measured: dict[str, tuple[float, float]] = {}
        self._resumed_at: dict[str, int] = {}
        self._by_tokens = True

    def expect(self, pieces: Sequence[Piece]) -> None:
        """These pieces are to come, and no others."""
        self._ahead = list(pieces)
        self._by_tokens = any(piece.flops is None for piece in pieces)

    def resumed(self, name: str, step: int) -> None:
        """A piece begins after that step."""
        self._resumed_at[name] = step

    def begin(self, name: str, total: int) -> None:
        """A piece of so many steps begins; one that was not expected is known by its steps alone."""
        names = [piece.name for piece in self._ahead]
        if name in names:
            piece = self._ahead[names.index(name)]
            del self._ahead[: names.index(name) + 1]
        elif self._now is not None and self._now.piece.name == name:  # it begins again, as memory ran out
            piece = self._now.piece
        else:
            piece = Piece(name, "unexpected", 0, 0)
        before = self._resumed_at.pop(name, 0)
        self._now = _Now(piece, total, [(before, self._clock())])

    def step(self, done: int) -> None:
        """So many steps of the piece are done."""
        self._now.history.append((done, self._clock()))

    def end(self) -> None:
        """The piece has ended, perhaps before its last step."""
        spent = self._spent(0)
        if spent is not None:
            self._measured[self._now.piece.kind] = spent

    @property
    def speed(self) -> tuple[float, float] | None:
        """Rows and tokens a second of the piece that runs; None before its first step, or where it was not expected."""
        now, (before, since) = self._now, self._half()
        seconds = self._now.history[-1][1] - since
        if now.done <= before or seconds <= 0 or not now.piece.rows:
            return None
        share = (now.done - before) / now.total
        return share * now.piece.rows / seconds, share * now.piece.tokens / seconds

    @property
    def seconds_of_piece(self) -> float | None:
        """Left of the piece that runs; None before its first step."""
        spent = self._spent()
        if spent is None:
            return None
        now = self._now
        left = self._cost_until(now.piece, 1.0) - self._cost_until(now.piece, now.done / now.total)
        return left * spent[1] / spent[0]

    @property
    def seconds_of_run(self) -> float | None:
        """Left of all pieces; None where nothing is measured yet, or nothing more is known to come."""
        own = self.seconds_of_piece
        if own is None or not self._ahead:
            return own if self._now.piece.kind != "unexpected" else None
        return own + sum(self._cost_until(piece, 1.0) / self._rate(piece.kind) for piece in self._ahead)

    def _half(self) -> tuple[int, float]:
        """The steps that were done, and when, as half of those so far were."""
        history = self._now.history
        at = bisect_left(history, (history[0][0] + history[-1][0]) / 2, key=lambda entry: entry[0])
        return history[at] if history[at][0] < history[-1][0] else history[max(0, at - 1)]

    def _spent(self, start: int | None = None) -> tuple[float, float] | None:
        """Cost and seconds of the piece that runs, in the later half of its steps or from an entry of its history.

        None before its first step.
        """
        now = self._now
        before, since = self._half() if start is None else now.history[start]
        until, from_ = (self._cost_until(now.piece, steps / now.total) for steps in (now.done, before))
        seconds = now.history[-1][1] - since
        return (until - from_, seconds) if until > from_ and seconds > 0 else None

    def _rate(self, kind: str) -> float:
        """Cost a second of a kind, with the piece that runs; of another kind where that kind was not seen."""
        seen = dict(self._measured)
        spent = self._spent()
        if spent is not None:
            seen[self._now.piece.kind] = spent
        order = {"prefixes": ("prefixes", "training"), "training": ("training",), "evaluation": ("evaluation",)}
        found = next((seen[each] for each in order.get(kind, ()) if each in seen), None)
        cost, seconds = found or map(sum, zip(*seen.values(), strict=True))
        return cost / seconds

    def _cost_until(self, piece: Piece, share: float) -> float:
        """Cost of the first share of a piece's steps; where nothing is known of it, the share itself."""
        if self._by_tokens or piece.flops is None:
            whole = piece.tokens * (1.0 if piece.kind == "evaluation" else _BACKWARD) or 1.0
            return share * whole
        every = (piece.flops - piece.once_flops) * (_FEW_TOKENS if piece.kind == "prefixes" else 1.0)
        return share * every + min(1.0, share / piece.once_share) * piece.once_flops
