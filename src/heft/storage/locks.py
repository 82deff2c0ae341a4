"""One process at a time: on a run's or a study's directory, and on what several would make."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from heft.errors import HeftError
from heft.storage.atomic import readable_os_errors

LOCK_FILE = ".lock"


@contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Hold a directory, which is made if it is missing, until the block ends or the process does, however it does.

    `what` it is, such as "run", is for the message.

    Raises:
        HeftError: another process holds it, or it cannot be written.
    """
    with readable_os_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / LOCK_FILE, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise HeftError(
                f"another process is working on the {what} in {directory}; wait for it, end it, or give another"
                " directory with --output DIR"
            ) from None
    try:
        yield
    finally:
        _release(lock, directory / LOCK_FILE)


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Around the making of a file or a folder that other processes may be making too: they wait for each other.

    Raises:
        HeftError: nothing can be written there.
    """
    file = path.with_name(f"{path.name}{LOCK_FILE}")
    lock = FileLock(file)
    with readable_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        _release(lock, file)


def _release(lock: FileLock, file: Path) -> None:
    with suppress(OSError):  # Windows removes no file that is open
        file.unlink()  # while it is held: FileLock takes no lock on a file without a name
    lock.release()


def wait_until_free(directory: Path, seconds: float) -> None:
    """Wait, at most so long, until no process holds a directory: one that was cut off may still be ending."""
    file, until = directory / LOCK_FILE, time.monotonic() + seconds
    with suppress(OSError):  # there is none, or the name goes meanwhile
        while file.is_file() and time.monotonic() < until:
            lock = FileLock(file, blocking=False)
            try:
                lock.acquire()
            except Timeout:
                time.sleep(0.5)
                continue
            lock.release()
            return
