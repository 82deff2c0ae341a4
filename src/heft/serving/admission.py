"""Which waiting requests have their prompts computed now, and which of them in one pass."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import torch

from heft.serving.forward import Row
from heft.serving.limits import Limits
from heft.serving.prefixes import BLOCK, Prefixes
from heft.serving.requests import Generation
from heft.serving.scoring import ScoringJob

MIXED = "mixed"
_LOGITS = 1024
"""Places with logits in a pass of several rows: each is as wide as the vocabulary."""
_SLACK = 32
"""Tokens by which rows of one pass may differ in any case; else the longest is at most twice the shortest."""


@dataclass(frozen=True)
class Part:
    """Rows of one pass.

    Attributes:
        lane: in which texts go on afterwards.
        rows: with the states that are known.
        owners: the request of each row.
    """

    lane: Hashable
    rows: list[Row]
    owners: list[Generation | ScoringJob]

    def of(self, wanted: Sequence[bool]) -> "Part":
        """Those of its rows that are wanted."""
        return Part(self.lane, list(compress(self.rows, wanted)), list(compress(self.owners, wanted)))


@dataclass(frozen=True)
class Admitted:
    """What is computed now.

    Attributes:
        parts: the passes.
        postponed: requests with a row that has much in common with one of these, and finds that computed afterwards;
            none whose row has that in common with a prompt which takes several rounds.
    """

    parts: list[Part]
    postponed: list[Generation | ScoringJob]

    @property
    def tokens(self) -> int:
        """That the passes compute."""
        return sum(row.new for part in self.parts for row in part.rows)


def admitted(
    waiting: Iterable[Generation | ScoringJob],
    running: int,
    tokens: int,
    limits: Limits,
    prefixes: Prefixes,
    begun: Mapping[tuple[Generation | ScoringJob, int], torch.Tensor],
    each_alone: bool,
) -> Admitted:
    """Passes for the first of the waiting requests. Scored rows take no place of a running text.

    Args:
        waiting: in the order in which they came.
        running: texts.
        tokens: that are computed; the row that reaches them is the last one.
        limits: of the server.
        prefixes: that are known.
        begun: states of the first tokens of rows that earlier passes have begun, by request and tag.
        each_alone: whether every row needs a pass of its own.
    """
    room = limits.batch - running
    postponed: list[Generation | ScoringJob] = []
    lanes: dict[Hashable, list[tuple[Row, Generation | ScoringJob]]] = {}
    first_of: dict[Hashable, Row] = {}
    for work in waiting:
        if isinstance(work, Generation):
            if room <= 0:
                continue
            pending = [Row(work.served, work.prompt, work.positions_from)]
        else:
            pending = list(work.pending.values())
        for plain in pending:
            if tokens <= 0:
                return Admitted(_passes(lanes, limits), postponed)
            row = _with_known(plain, prefixes, begun.get((work, plain.tag)))
            earlier = _computes_most_of(row, prefixes, first_of)
            if earlier is not None:
                if work not in postponed and not _first_part(earlier, limits.chunk).later:
                    postponed.append(work)
                continue
            row = _first_part(row, limits.chunk)
            lanes.setdefault(_lane(work, row, each_alone), []).append((row, work))
            tokens -= row.new
            room -= isinstance(work, Generation)
    return Admitted(_passes(lanes, limits), postponed)


def _lane(work: Generation | ScoringJob, row: Row, each_alone: bool) -> Hashable:
    if each_alone:
        return id(work), row.tag
    return MIXED if row.served.alone is None else row.served.name


def _shared(row: Row) -> int:
    """Tokens of a row that can be known before it: those before its tail, and before the first with logits."""
    return max(0, min(row.prompt - row.served.tail, len(row.ids) - row.keep))


def _with_known(row: Row, prefixes: Prefixes, begun: torch.Tensor | None) -> Row:
    blocks = prefixes.find(row.served.reaching, row.ids[: _shared(row)])
    if begun is not None and len(begun) >= len(blocks) * BLOCK:
        return replace(row, known=begun)
    return replace(row, known=torch.cat(blocks)) if blocks else row


def _first_part(row: Row, most: int) -> Row:
    """As many of a row's new tokens as one round computes; all, where half a chunk at most or tokens with logits would
    be left."""
    end = len(row.ids) - row.new + most
    if len(row.ids) - end <= max(most // 2, row.keep - 1):
        return row
    return replace(row, ids=row.ids[:end], keep=1, later=len(row.ids) - end)


def _computes_most_of(row: Row, prefixes: Prefixes, first_of: dict[Hashable, Row]) -> Row | None:
    """The earlier row of these passes that computes at least half of what this one would; None where none does."""
    ids = row.ids[: _shared(row)]
    key = prefixes.next_key(row.served.reaching, ids) if prefixes.most_bytes else None
    if key is None:
        return None
    first = first_of.setdefault(key, row)
    if first is row:
        return None
    theirs = first.ids[: max(0, first.prompt - first.served.tail)]
    common = next((n for n, (a, b) in enumerate(zip(ids, theirs, strict=False)) if a != b), min(len(ids), len(theirs)))
    gain = common // BLOCK * BLOCK - (len(row.ids) - row.new)
    return first if 2 * gain >= row.new else None


def _passes(lanes: dict[Hashable, list[tuple[Row, Generation | ScoringJob]]], limits: Limits) -> list[Part]:
    """Rows of each lane in passes of like length, whose padding costs little."""
    parts: list[Part] = []
    for lane, pairs in lanes.items():
        pairs.sort(key=lambda pair: pair[0].new)
        chosen: list[tuple[Row, Generation | ScoringJob]] = []
        for pair in pairs:
            if chosen and not _goes_with([row for row, _ in chosen], pair[0], limits):
                parts.append(_part(lane, chosen))
                chosen = []
            chosen.append(pair)
        parts.append(_part(lane, chosen))
    return parts


def _goes_with(rows: Sequence[Row], row: Row, limits: Limits) -> bool:
    """Whether a row that is at least as long as these may stand in their pass."""
    count, shortest = len(rows) + 1, rows[0].new
    keep = max(row.keep, *(each.keep for each in rows))
    fits = count * row.new <= limits.prefill and count * keep <= _LOGITS
    return fits and row.new <= max(2 * shortest, shortest + _SLACK)


def _part(lane: Hashable, pairs: list[tuple[Row, Generation | ScoringJob]]) -> Part:
    return Part(lane, [row for row, _ in pairs], [work for _, work in pairs])
