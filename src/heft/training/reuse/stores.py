"""Where activations are cached between epochs: in memory, in a memory-mapped file, or nowhere.

A store lives as long as its stage. It is filled from the frozen model of that stage and from its rows, and is gone
before either can change, so what it holds is never stale.
"""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import torch

from heft.runtime import distributed
from heft.runtime.machine import available_memory
from heft.storage.atomic import readable_os_errors

SHARE_OF_MEMORY = 0.25
SHARE_OF_DISK = 0.5


class Store:
    """Keeps nothing: every step computes its activations again. Others keep a copy of one matrix a row.

    Attributes:
        kind: its name in the settings.
        persistent: whether what was put stays until the stage ends.
    """

    kind = "off"
    persistent = False

    def get(self, row: int) -> torch.Tensor | None:
        """What was put for the row, or None."""

    def put(self, row: int, states: torch.Tensor) -> None:
        """Keep a copy of the row's tensor."""


class MemoryStore(Store):
    """Keeps rows in main memory."""

    kind = "memory"
    persistent = True

    def __init__(self):
        self._rows: dict[int, torch.Tensor] = {}

    def get(self, row: int) -> torch.Tensor | None:
        return self._rows.get(row)

    def put(self, row: int, states: torch.Tensor) -> None:
        self._rows[row] = states.to("cpu", copy=True).contiguous()


class DiskStore(Store):
    """Keeps rows in one memory-mapped file, each at a place of its own.

    The file has no name once it is open, so that its room is free again however the process ends.

    Args:
        path: the file, which is overwritten.
        lengths: cached tokens of each row, which give every row its place.

    Raises:
        HeftError: at the first `put`, if the disk has no room for all rows.
    """

    kind = "disk"
    persistent = True

    def __init__(self, path: Path, lengths: Sequence[int]):
        self._path = path
        self._starts = [0, *accumulate(lengths)]
        self._flat: torch.Tensor | None = None
        self._width = 0
        self._shapes: dict[int, torch.Size] = {}

    def get(self, row: int) -> torch.Tensor | None:
        return self._place(row) if row in self._shapes else None

    def put(self, row: int, states: torch.Tensor) -> None:
        if self._flat is None:
            self._width = states.numel() // (self._starts[row + 1] - self._starts[row])
            count = self._starts[-1] * self._width
            _reserve(self._path, count * states.element_size())
            self._flat = torch.from_file(str(self._path), shared=True, size=count, dtype=states.dtype)
            with suppress(OSError):  # Windows keeps the name of a file that is open
                self._path.unlink()
        self._shapes[row] = states.shape
        self._place(row).copy_(states)

    def _place(self, row: int) -> torch.Tensor:
        start, end = self._starts[row] * self._width, self._starts[row + 1] * self._width
        return self._flat[start:end].view(self._shapes[row])


def _reserve(path: Path, size: int) -> None:
    """Make a file of that size whose room is taken, where the system can: a full disk must not be found out later."""
    with readable_os_errors(path), path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)


def choose_store(setting: str, size: int, uses: float, folder: Path) -> str:
    """What a stage's `cache` setting means here: "memory", "disk" or "off".

    Args:
        setting: one of these, or "auto", which takes memory for up to a quarter of what is free, then disk for up to
            half of what is free, and nothing where a row is used once only.
        size: bytes of all that would be cached, in each process.
        uses: how often each row will be trained on.
        folder: for a file.
    """
    if setting != "auto":
        return setting
    needed = size * distributed.count_on_this_machine()
    if uses <= 1:
        return "off"
    free = available_memory()
    if free is not None and needed <= SHARE_OF_MEMORY * free:
        return "memory"
    return "disk" if needed <= SHARE_OF_DISK * shutil.disk_usage(folder).free else "off"


def open_store(kind: str, lengths: Sequence[int], folder: Path) -> Store:
    """A store of that kind for rows, given how many tokens of each are cached; `folder` is for a file."""
    if kind == "memory":
        return MemoryStore()
    return DiskStore(folder / "activations.bin", lengths) if kind == "disk" else Store()
