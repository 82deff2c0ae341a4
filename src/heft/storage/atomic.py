"""Writes that are whole or not there: what is read is what was written, whatever happened in between.

A file or a folder is written beside its place under the name `….partial`, brought to the disk, and renamed. That of a
file is its own in every write, so that two processes that write one file do not write into each other's.
"""

import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from heft.errors import HeftError

if TYPE_CHECKING:
    import torch

_NO_RIGHT = "you may not write there; change the folder's permissions, or write elsewhere with --output"
_IN_THE_WAY = "something else is in the way there; move it, or write elsewhere with --output"
_NO_LOCKS = "that disk does not do what is asked of it, such as file locks; write elsewhere with --output"
_ADVICE = {
    errno.ENOSPC: "free some space on that disk",
    errno.EDQUOT: "your quota on that disk is used up; free some space",
    errno.EROFS: "that disk is read-only; write elsewhere with --output",
    **dict.fromkeys((errno.EACCES, errno.EPERM), _NO_RIGHT),
    errno.ENAMETOOLONG: "its name is too long for that disk; give a shorter one",
    errno.ENOENT: "its folder is not there, or no more; make it, or write elsewhere with --output",
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), _IN_THE_WAY),
    **dict.fromkeys((errno.ENOLCK, errno.EOPNOTSUPP), _NO_LOCKS),
    errno.ELOOP: "links there lead in a circle; remove them, or write elsewhere with --output",
    errno.EFBIG: "it is larger than a file may be there (on Linux: ulimit -f, or the kind of the disk)",
}
_OWN_OUTPUT = re.compile(r"/dev/(stdout|stderr|fd/\d+)")
_PARTIAL = ".partial"
_KEPT_OF_A_NAME = 40
"""Characters of a file's name that its partial one begins with: a name may have 255 bytes."""


@contextmanager
def readable_os_errors(path: Path) -> Iterator[None]:
    """Around writes to `path`: what the system refuses becomes a `HeftError` with what to do about it.

    Where it is another file, such as one that is copied, that one is named.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno)
        if advice is None:
            raise
        reason = os.strerror(error.errno)
        if isinstance(error.filename, str | os.PathLike) and not _is_of(Path(error.filename), path):
            raise HeftError(f"{error.filename} cannot be read ({reason}), so {path} was not written") from error
        raise HeftError(f"{path} cannot be written ({reason}): {advice}") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """A text file open for writing, which takes the place of `path` when the block ends; as `atomic_path`."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        yield file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Where to write a file, which takes the place of `path` when the block ends without an error.

    A symbolic link stays one: the file that it names is written. What cannot be replaced, such as a pipe or a terminal
    (/dev/stdout), gets the whole file when the block ends.

    Raises:
        HeftError: there is no room, or no right to write there; `path` is as it was.
    """
    path = linked_place(path)
    with readable_os_errors(path):
        if is_stream(path):
            with tempfile.TemporaryDirectory() as folder:
                yield (whole := Path(folder, path.name))
                with path.open("ab") as stream:  # a terminal's or a pipe's place is its end; so is a redirected file's
                    stream.write(whole.read_bytes())
            return
        partial = path.with_name(f"{path.name[:_KEPT_OF_A_NAME]}.{secrets.token_hex(4)}{_PARTIAL}")
        try:
            yield partial
            _fsync(partial)
            with suppress(FileNotFoundError):  # a new file
                shutil.copymode(path, partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _fsync(path.parent)


def is_stream(path: Path) -> bool:
    """Whether what is written to a path goes elsewhere: to a pipe, a terminal, a device."""
    is_own = _OWN_OUTPUT.fullmatch(os.path.abspath(path))  # where one's own output is a file, it is not to be replaced
    return os.path.exists(path) and not os.path.isdir(path) and (is_own is not None or not os.path.isfile(path))


def linked_place(path: Path) -> Path:
    """The place that a symbolic link names, whether something is there or not; of anything else, and of one's own
    output, the path itself."""
    is_own = _OWN_OUTPUT.fullmatch(os.path.abspath(path))
    return Path(os.path.realpath(path)) if os.path.islink(path) and not is_own else path


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; raises as `atomic_write` does."""
    with atomic_write(path) as file:
        file.write(text)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which appears at `path` when the block ends without an error.

    What an earlier attempt left beside it is removed.

    Raises:
        HeftError: there is no room, or no right to write there; there is nothing at `path`.
    """
    path = linked_place(path)
    partial = path.with_name(path.name + _PARTIAL)
    with readable_os_errors(path):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            for each in [*partial.rglob("*"), partial]:
                _fsync(each)
            os.rename(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _fsync(path.parent)


def save_tensors(tensors: "dict[str, torch.Tensor]", path: Path) -> None:
    """Write a safetensors file; what the system refuses is an OSError, as elsewhere."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def append_line(path: Path, line: str) -> None:
    """Append a line in one piece, so that a reader sees it whole or not at all; raises as `atomic_write` does."""
    with readable_os_errors(path), path.open("ab", buffering=0) as file:
        data = (line + "\n").encode("utf-8")
        if file.write(data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def to_json(value: object) -> str:
    """JSON for people: indented, without NaN."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """The same with null for numbers that are not finite, which JSON does not have, within lists and mappings too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_of(other: Path, path: Path) -> bool:
    """Whether a path is that of a write or of its partial one, lies in it, or is a folder above it."""
    other, path = other.absolute(), path.absolute()
    partial = any(each.parent == path.parent and each.name.endswith(_PARTIAL) for each in (other, *other.parents))
    return partial or path.is_relative_to(other) or other.is_relative_to(path)


def _fsync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk; where the system cannot do that, do nothing."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks know no fsync of folders
            raise
    finally:
        os.close(handle)
