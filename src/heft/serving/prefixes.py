"""Prefixes of prompts, computed once for all requests whose adapters act on them in the same way.

States are kept in blocks of `BLOCK` tokens. A block stands for its tokens, for all before them and for the adapters
that act on them (`Served.reaching`), none for the base; it is never used for others. Memory is bounded, and what was
used longest ago goes first. Shapes: L tokens, W numbers of a token's states.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

BLOCK = 16


@dataclass(frozen=True)
class _Held:
    number: int
    states_LW: torch.Tensor


class Prefixes:
    """Blocks of prefixes.

    Args:
        most_bytes: of all blocks together; 0 keeps none.
    """

    def __init__(self, most_bytes: int):
        self.most_bytes, self.bytes, self.hits, self.asked = most_bytes, 0, 0, 0
        self._blocks: OrderedDict[Hashable, _Held] = OrderedDict()
        self._count = 0

    def find(self, reaching: tuple[str, ...], ids: Sequence[int]) -> list[torch.Tensor]:
        """States of the leading blocks of `ids` that are held, in order."""
        found, parent = [], -1
        keys = []
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            key = (reaching, parent, tuple(ids[start : start + BLOCK]))
            held = self._blocks.get(key)
            if held is None:
                break
            found.append(held.states_LW)
            keys.append(key)
            parent = held.number
        for key in reversed(keys):  # what comes before others is the last to go
            self._blocks.move_to_end(key)
        return found

    def count(self, found: int, asked: int) -> None:
        """Note for the metrics that of so many tokens so many were found."""
        self.hits, self.asked = self.hits + found, self.asked + asked

    def next_key(self, reaching: tuple[str, ...], ids: Sequence[int]) -> Hashable | None:
        """Stands for the leading blocks of `ids` up to the first that is not held; None where all are."""
        held = len(self.find(reaching, ids)) * BLOCK
        return (reaching, tuple(ids[: held + BLOCK])) if held + BLOCK <= len(ids) else None

    def add(self, reaching: tuple[str, ...], ids: Sequence[int], states: Callable[[int, int], torch.Tensor]) -> None:
        """Keep the whole blocks of `ids`; `states` gives (L, W) of the tokens from one to another, as its own."""
        parent, keys = -1, []
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            key = (reaching, parent, tuple(ids[start : start + BLOCK]))
            held = self._blocks.get(key)
            if held is None:
                held = _Held(self._count, states(start, start + BLOCK))
                size = held.states_LW.nbytes
                if size > self.most_bytes:
                    return
                self._count += 1
                self._blocks[key] = held
                self.bytes += size
            keys.append(key)
            parent = held.number
        for key in reversed(keys):
            self._blocks.move_to_end(key)
        while self.bytes > self.most_bytes:
            _, gone = self._blocks.popitem(last=False)
            self.bytes -= gone.states_LW.nbytes

    def forget(self, adapters: Sequence[str]) -> None:
        """Let go of all that these adapters acted on."""
        for key in [key for key in self._blocks if set(key[0]) & set(adapters)]:
            self.bytes -= self._blocks.pop(key).states_LW.nbytes
