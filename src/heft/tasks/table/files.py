"""Bytes of a file as text: which encoding they are in, where that is certain, else an error that names the likely one.

A byte order mark makes an encoding certain, and so does UTF-8 without an error, since text in another encoding is
hardly ever valid UTF-8. Everything else is a guess, and a wrong guess changes letters without a word.
"""

import codecs
import gzip
import io
import zlib
from pathlib import Path

from heft.errors import HeftError
from heft.storage.reading import LINES_LIMIT, FileFault, is_dir, is_file, read_bytes

_MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_NOT_TABLES = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV UTF-8"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save the sheet as CSV UTF-8"),
    (b"ARROW1", "an Arrow file; write it as Parquet or JSON Lines"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it, or compress it with gzip"),
    (b"BZh", "compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ", "compressed with xz; unpack it, or compress it with gzip"),
    (b"SQLite format 3", "an SQLite database; write its table as CSV"),
    (b"%PDF", "a PDF; write its rows as CSV or JSON Lines"),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself; fetch it with `git lfs pull`"),
)
_DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_SAMPLE = 2**16
_LIKELY = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("shift_jis", "euc_jp", "gb18030", "big5", "euc_kr"),
]
"""Encodings that files of people are in, where they are not in Unicode."""


def user_path(text: str, folder: Path | None = None) -> Path:
    """A path as a person writes it: `~` is the home directory, and a relative path counts from `folder`.

    Raises:
        HeftError: there is no such home.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise HeftError(f"{text!r} is not a path: {error}") from None
    return path if folder is None else folder / path


def read_file(path: Path) -> bytes:
    """The bytes of a file of rows, unpacked where they are compressed with gzip.

    Raises:
        HeftError: it is not there, cannot be read, is too large, or is of a kind that is no table.
    """
    if not is_file(path):
        raise HeftError(f"{path} is not a file. {files_beside(path)}")
    content = read_bytes(path, LINES_LIMIT)
    if content.startswith(b"\x1f\x8b"):
        content = _unpacked(path, content)
    for start, what in _NOT_TABLES:
        if content.startswith(start):
            raise FileFault(path, f"it is {what}")
    return content


def _unpacked(path: Path, content: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(content)) as file:
            unpacked = file.read(LINES_LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FileFault(path, f"its gzip compression is damaged ({error})") from None
    if len(unpacked) > LINES_LIMIT:
        raise FileFault(path, f"unpacked it is larger than {LINES_LIMIT:,} bytes, the most that rows may have")
    return unpacked


def require_encoding(name: str) -> str:
    """The name of an encoding of text that Python knows.

    Raises:
        ValueError: there is none of that name.
    """
    try:
        "".encode(name)  # codecs that are not of text, such as base64, are refused here too
    except LookupError:
        raise ValueError(f"{name!r} is no encoding; examples are {', '.join(_LIKELY[:3])}, {_LIKELY[7]}") from None
    return name


def utf8(path: Path, content: bytes, encoding: str | None = None) -> bytes:
    """Text as UTF-8 without a byte order mark; `encoding` is that of text which is not in Unicode.

    Raises:
        FileFault: its encoding is not certain; the message names the likely one, and says what to do.
    """
    if encoding is not None and not _is_unicode(content):
        try:
            return content.decode(encoding).encode("utf-8")
        except UnicodeError as error:
            raise FileFault(path, f"it is neither in Unicode nor in {encoding} ({error})") from None
    encoding, mark = _certain_encoding(content)
    if encoding == "utf-8":
        text = content[len(mark) :]
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileFault(path, _not_utf8(content, error, len(mark))) from None
        return text
    try:
        return content[len(mark) :].decode(encoding).encode("utf-8")
    except UnicodeError as error:
        raise FileFault(path, f"it begins as {encoding.upper()} and is not ({error}); save it as UTF-8") from None


def _is_unicode(content: bytes) -> bool:
    encoding, mark = _certain_encoding(content)
    try:
        content[len(mark) :].decode(encoding)
    except UnicodeError:
        return bool(mark)
    return True


def _certain_encoding(content: bytes) -> tuple[str, bytes]:
    """The encoding and the byte order mark; UTF-8 where nothing says otherwise."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding, mark
    sample = content[:_SAMPLE]
    # A letter of the Latin script in UTF-16 has a zero byte, which no text in another encoding has.
    for encoding, zeros in (("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2])):
        if len(sample) >= 4 and zeros.count(0) > 0.5 * len(zeros):
            return encoding, b""
    return "utf-8", b""


def _not_utf8(content: bytes, error: UnicodeDecodeError, before: int) -> str:
    from charset_normalizer import from_bytes  # here because only this error needs it

    at = error.start + before
    line = content.count(b"\n", 0, at) + 1
    start = f"it is not UTF-8 (line {line}, byte 0x{content[at]:02x})"
    begin, end = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at)
    text = content[begin : len(content) if end < 0 else end]
    guess = from_bytes(content[max(0, begin - _SAMPLE) : begin + _SAMPLE], cp_isolation=_LIKELY).best()
    name = "cp1252" if guess is None else guess.encoding
    if text.decode("cp1252", "ignore") == text.decode(name, "ignore"):
        name = "cp1252"
    try:
        seen = text.decode(name).strip()
    except UnicodeError:
        return f"{start}; save it as UTF-8"
    around = max(0, len(text[: at - begin].decode(name, "ignore")) - 15)
    label = {"cp1252": "Windows-1252 (Latin-1)"}.get(name, name)
    return (
        f"{start}; it looks like {label}, in which that line has {seen[around : around + 30]!r}. If that is right,"
        f" say so (encoding: {name} in the recipe's task, --encoding {name} of a command), or save it as UTF-8 (in"
        " Excel: CSV UTF-8)"
    )


def files_beside(path: Path) -> str:
    """Which data files could have been meant."""
    if not is_dir(path.parent):
        seen_from = "" if path.is_absolute() else f" (seen from {Path.cwd()})"
        return f"There is no folder {path.parent} either{seen_from}."
    names = sorted(file.name for file in path.parent.iterdir() if is_data_file(file.name))
    folder = Path.cwd() if path.parent == Path() else path.parent
    return f"{folder} has {', '.join(names) or 'no files of rows'}."


def is_data_file(name: str) -> bool:
    """Whether a name is that of a file of rows, compressed or not."""
    return name.lower().removesuffix(".gz").endswith(_DATA_SUFFIXES)
