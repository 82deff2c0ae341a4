"""Writing over an adapter directory. Needs no torch.

The new files are whole in a folder of the directory (`_WHOLE`) before the first old one goes, and only names change
from then on. A save that was cut off behind that is finished by whoever reads or writes the directory next, so a reader
has the old adapters or the new ones, and never some of both.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from heft.errors import HeftError
from heft.storage.atomic import readable_os_errors
from heft.storage.locks import in_turn
from heft.storage.reading import is_file

_PARTIAL, _WHOLE = ".heft.partial", ".heft.whole"
_LAST = "heft.json"
"""Is there until all others are in their places."""


def replace_files(directory: Path, write: Callable[[Path], None]) -> None:
    """Put the files and folders that `write` makes in a new folder into a directory, over those of the same names.

    Raises:
        HeftError: nothing can be written there.
    """
    partial, whole = directory / _PARTIAL, directory / _WHOLE
    with in_turn(whole):
        _finish(directory)
        for left in (partial, whole):  # by a save that was cut off before it was whole, or once all was in its place
            shutil.rmtree(left, ignore_errors=True)
        try:
            write(partial)
            with readable_os_errors(directory):
                os.rename(partial, whole)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _finish(directory)


def finish_replacing(directory: Path) -> None:
    """Finish a save that was cut off; where one is going on, wait for it.

    Raises:
        HeftError: nothing can be written there.
    """
    if not _is_unfinished(directory):
        return
    try:
        with in_turn(directory / _WHOLE):
            _finish(directory)
    except HeftError as error:
        raise HeftError(
            f"a save into {directory} was cut off, and has to be finished before it is read: {error}"
        ) from None


def _is_unfinished(directory: Path) -> bool:
    """Whether new files are there whole, and not all of them are in their places. A link could lead elsewhere."""
    return is_file(directory / _WHOLE / _LAST) and not os.path.islink(directory / _WHOLE)


def _finish(directory: Path) -> None:
    if not _is_unfinished(directory):
        return
    whole = directory / _WHOLE
    with readable_os_errors(directory):
        names = [path.name for path in whole.iterdir() if not path.name.startswith(".")]
        for name in sorted(names, key=lambda name: (name == _LAST, name)):
            if os.path.lexists(directory / name):
                os.replace(directory / name, whole / f".{name}")
            os.replace(whole / name, directory / name)
        shutil.rmtree(whole)
