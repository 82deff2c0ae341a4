"""Reads that files of strangers cannot misuse: bounded before they begin, never waiting, strict about JSON.

Everything that heft reads of a run, a study, an adapter directory or a person's rows is read through here.
"""

import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from heft.errors import HeftError

JSON_LIMIT = 2**20
"""Bytes that a file of one JSON object may have: manifests have some thousands."""
LINE_LIMIT = 2**24
"""Bytes that a line of a JSON Lines file may have."""
LINES_LIMIT = 2**31
"""Bytes that a JSON Lines file may have."""
_INTEGER_DIGITS = 300
_BLANK = re.compile(r"[ \t\n\r]*")


class FileFault(HeftError):
    """A file cannot be read, or is no text of the kind that it should be; `reason` says why, without its name."""

    def __init__(self, path: Path, reason: str):
        self.reason = reason
        super().__init__(f"{path} cannot be read: {reason}")


def is_file(path: Path) -> bool:
    """Whether there is a file; False also where a path cannot be one, as its name is too long or a folder is closed."""
    return os.path.isfile(path)


def is_dir(path: Path) -> bool:
    """Whether there is a folder; False where `is_file` would say so too."""
    return os.path.isdir(path)


def absolute_path(path: Path) -> Path:
    """The path from the root, without `..`: behind a link that is the folder above what the link points to."""
    found = Path(path.absolute().anchor)
    for part in path.absolute().parts[1:]:
        if part == "..":
            found = Path(os.path.realpath(found) if os.path.islink(found) else found).parent
        else:
            found /= part
    return found


def nearest_existing(path: Path) -> Path:
    """The path, or the first above it, that is there; that is what a new file or folder would be made in."""
    return next(each for each in (path, *path.absolute().parents) if os.path.exists(each))


@contextmanager
def _as_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileFault(path, "there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise FileFault(path, getattr(error, "strerror", None) or str(error)) from None


def open_file(path: Path) -> BinaryIO:
    """Open an ordinary file. A pipe is refused where opening it would wait for ever, and so is a device or a folder.

    Raises:
        FileFault: it is not there, is no ordinary file, or may not be read.
    """
    with _as_faults(path):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise FileFault(path, f"it is {what}, an ordinary file was expected")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, limit: int = JSON_LIMIT) -> bytes:
    """A whole file of at most `limit` bytes.

    Raises:
        FileFault: it cannot be read, or is larger.
    """
    with open_file(path) as file, _as_faults(path):
        content = file.read(limit + 1)
    if len(content) > limit:
        raise _too_large(path, limit)
    return content


def read_json(path: Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """A file that holds one JSON object, read strictly (see `parse_json`).

    Raises:
        FileFault: it cannot be read, is larger than `limit` bytes, or holds something else.
    """
    try:
        value = parse_json(read_bytes(path, limit))
    except ValueError as error:
        raise FileFault(path, str(error)) from None
    if not isinstance(value, dict):
        raise FileFault(path, f"it holds {kind_of(value)}, not one JSON object {{…}}")
    return value


def read_lines(path: Path, limit: int = LINES_LIMIT) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers from 1, each read only when it is asked for.

    A line ends with a line feed, and with nothing else that some think a line's end, since JSON may hold those.

    Raises:
        FileFault: the file cannot be read, or it or a line of it is too long.
    """
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise _too_large(path, limit)
        number = size = 0
        while line := _next_line(path, file):
            number += 1
            size += len(line)
            if size > limit:  # a file may grow, or have more in it than it says
                raise _too_large(path, limit)
            if len(line) > LINE_LIMIT:
                raise FileFault(path, f"line {number} is longer than {LINE_LIMIT:,} bytes")
            if line.strip():
                yield number, line


def _too_large(path: Path, limit: int) -> FileFault:
    return FileFault(path, f"it is larger than {limit:,} bytes, the most that such a file may have")


def _next_line(path: Path, file: BinaryIO) -> bytes:
    with _as_faults(path):
        return file.readline(LINE_LIMIT + 1)


def parse_json(content: bytes, finite: bool = True) -> Any:
    """One JSON value, by RFC 8259 and a little stricter, as other programs might read something else.

    Args:
        content: UTF-8.
        finite: whether NaN and infinities, which are no JSON but which Python writes, are refused.

    Raises:
        ValueError: it is none, repeats a key, nests too deeply, or holds a number out of range or half of a surrogate
            pair, which no tokenizer, hash or screen accepts. The message is for people and names no file.
    """
    try:
        value = _decoder(finite).decode(content.decode("utf-8"))
        if b"\\u" in content:  # only an escape can smuggle in half a surrogate pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        line, start = content.count(b"\n", 0, error.start) + 1, content.rfind(b"\n", 0, error.start)
        where = f"line {line}" if line > 1 else "the line"
        raise ValueError(f"not UTF-8 (byte {error.start - start} of {where})") from None
    except UnicodeEncodeError:
        raise ValueError("a \\u escape is half of a surrogate pair") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise ValueError(f"not JSON: {error.msg} ({where}column {error.colno})") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    return value


def parse_json_list(content: bytes, own: frozenset[str] = frozenset()) -> list[tuple[int, Any]] | None:
    """The entries of a JSON list, each with the line on which it begins, counted from 1.

    A list may also stand in an object, as the only one of objects in it, under a key that is not one of `own`.

    Returns:
        None where there is no such list.

    Raises:
        ValueError: it is not JSON, by the rules of `parse_json`; the message is for people and names no file.
    """
    value = parse_json(content, finite=False)
    text = content.decode("utf-8")
    decoder, start = _decoder(False), _BLANK.match(text).end()
    if isinstance(value, dict):
        lists = [key for key, part in value.items() if _holds_objects(part)]
        if len(lists) != 1 or lists[0] in own:
            return None
        while text[start] != "[":  # from one key's value to the next; the text is known to be JSON
            key, at = decoder.raw_decode(text, _BLANK.match(text, start + 1).end())
            start = _BLANK.match(text, _BLANK.match(text, at).end() + 1).end()
            if key != lists[0]:
                _, at = decoder.raw_decode(text, start)
                start = _BLANK.match(text, at).end()
        value = value[lists[0]]
    if not isinstance(value, list):
        return None
    entries, line, counted, at = [], 1, 0, start
    for _ in value:
        at = _BLANK.match(text, at + 1).end()
        line, counted = line + text.count("\n", counted, at), at
        entry, at = decoder.raw_decode(text, at)
        entries.append((line, entry))
        at = _BLANK.match(text, at).end()
    return entries


def lines_of_object(content: bytes) -> int | None:
    """How many lines the JSON object takes that UTF-8 text begins with, whatever follows it; None where none does."""
    text = content.decode("utf-8")
    start = _BLANK.match(text).end()
    try:
        value, end = _decoder(False).raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return text.count("\n", start, end) + 1 if isinstance(value, dict) else None


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _decoder(finite: bool) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_distinct,
        parse_int=_integer,
        parse_float=_finite if finite else None,
        parse_constant=_no_number if finite else None,
    )


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    words = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:60]!r} stands there twice")
    return value


def _integer(text: str) -> int:
    if len(text) > _INTEGER_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")
