"""Where results are to be written: looked at before the work, so that nobody waits for what cannot be kept."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from heft.errors import HeftError
from heft.storage.atomic import atomic_folder, is_stream, linked_place, readable_os_errors
from heft.storage.locks import in_turn
from heft.storage.reading import is_dir, nearest_existing


def require_new_file(path: Path, what: str) -> None:
    """Require that a file can be written there; one that is there would be replaced, a pipe written to.

    `what` it is to hold, such as "predictions", is for the message.

    Raises:
        HeftError: it is a folder, its folder cannot be made, or nothing may be written there.
    """
    if is_dir(path):
        raise HeftError(f"{path} is a folder; give the file to write {what} to")
    if not is_stream(path):
        require_possible(linked_place(path))


def require_new_folder(path: Path) -> None:
    """Require that a folder can be written there: there is none yet, or an empty one.

    Raises:
        HeftError: something is there, a file stands where a folder above it would, or nothing may be written there.
    """
    require_possible(linked_place(path))
    with readable_os_errors(path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise HeftError(f"{path} is there already; give a new folder, or remove it first")
    if path.is_dir() and (os.path.ismount(path) or os.path.samefile(path, os.curdir)):
        what = "a disk of its own" if os.path.ismount(path) else "the folder that you are in"
        raise HeftError(
            f"{path} is {what}, which no finished folder can take the place of; give a new folder in it, such as"
            f" {path / 'new'}"
        )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill as `atomic_folder` has it, where there is none yet, by one process at a time.

    Raises:
        HeftError: as `require_new_folder` raises it, also where another process has written there meanwhile.
    """
    with in_turn(path):
        require_new_folder(path)
        with atomic_folder(path) as partial:
            yield partial


def make_folder_of(path: Path) -> None:
    """Make the folder that a file is to be written to, where it is missing.

    Raises:
        HeftError: it cannot be made.
    """
    path = linked_place(path)
    with readable_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)


def require_possible(path: Path) -> None:
    """Require that a file or a folder can be made there, whatever is there now.

    Raises:
        HeftError: its name is too long, a file stands where a folder above it would, or nothing may be written there.
    """
    above = nearest_existing(path.absolute().parent)
    if not is_dir(above):
        raise HeftError(f"{path} cannot be made: {above} is a file")
    with readable_os_errors(path), suppress(FileNotFoundError):
        os.stat(path)
    if not os.access(above, os.W_OK | os.X_OK):
        raise HeftError(f"{path} cannot be made: {above} cannot be written to; write elsewhere, or change who may")
