"""The command line. `main` is the entry point; torch is imported when a command needs it."""

import codecs
import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from heft.errors import HeftError
from heft.runtime import signals
from heft.text.escape import escape_controls, spelt_out

_INTERRUPTED = 130
"""Exit status after Ctrl-C, also Typer's: 128 and the number of SIGINT."""
_UNWRITTEN = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT)
"""Errors of writing to a pipe or to a file that the shell opened."""
_SPELT = "heft.spelt"
"""Name of how a character that an encoding lacks is written: so that JSON stays JSON of the same value."""


def main() -> None:
    """Run the command line; a `HeftError` is one message and exit status 2, Ctrl-C is 130, and SIGTERM 143.

    With `--json` each of these is a JSON document on standard output too (heft.cli.documents). Where nobody reads
    standard output any more, the command ends with 1 and without a word.
    """
    codecs.register_error(_SPELT, spelt_out)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # which says what it lacks as PEFT imports it
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the encoding lacks must not end a run
            stream.reconfigure(errors=_SPELT)
    try:
        try:
            _run(wants_json(sys.argv[1:]))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if not _is_of_output(error):
            raise
        _leave_output(error)


def _run(as_json: bool) -> None:
    """Run the command line, and leave where something is wrong."""
    try:
        _require_text(sys.argv[1:])
        _require_working_directory()
        from heft.cli.app import app

        status = app(prog_name="heft", standalone_mode=not as_json)  # else typer prints its errors itself
        if status:
            raise SystemExit(status)
    except HeftError as error:
        _fail(str(error), "input", 2, as_json)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != _INTERRUPTED:
            raise
        _fail("interrupted", "interrupted", 128 + signals.last(), as_json)
    except Exception as error:
        if not as_json or _is_of_output(error):
            raise
        if hasattr(error, "format_message"):  # typer's, of a command line that is wrong
            _fail(error.format_message(), "usage", error.exit_code, as_json)
        traceback.print_exc()
        _fail(f"{type(error).__name__}: {error}", "defect", 1, as_json)


def _require_text(words: Sequence[str]) -> None:
    """Require arguments that are text: all stand in files and documents that are UTF-8, names of files too.

    Raises:
        HeftError: bytes of one are no characters of the system's encoding.
    """
    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise HeftError(
                f"the argument {escape_controls(word)} has bytes that are no {sys.getfilesystemencoding().upper()};"
                " rename the file, or type it anew"
            )


def _require_working_directory() -> None:
    """Require that the working directory is there, from which paths count and without which torch does not load.

    Raises:
        HeftError: it was removed.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise HeftError(
            f"the folder that you are in cannot be found ({error.strerror}); it may be removed, or made anew: change to"
            " one that is there, such as cd ~"
        ) from None


def _is_of_output(error: Exception) -> bool:
    """Whether an error is of standard output or standard error; one of a file that heft writes is a `HeftError`."""
    return isinstance(error, OSError) and error.errno in _UNWRITTEN and error.filename is None


def _leave_output(error: OSError) -> NoReturn:
    """Leave, as nothing can be written any more; where nobody reads it, there is nothing to say either."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python would complain at its end
    if error.errno == errno.EPIPE:
        sys.exit(1)
    print(f"heft: standard output cannot be written ({os.strerror(error.errno)})", file=sys.stderr)
    sys.exit(2)


def wants_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for a JSON document; what follows `--` is no option."""
    words = list(words)
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def _fail(message: str, kind: str, status: int, as_json: bool) -> NoReturn:
    """Say what is wrong on standard error, with `--json` in a document on standard output too, and leave."""
    print(escape_controls(f"heft: {message}"), file=sys.stderr)
    if as_json:
        from heft.cli.documents import Error, ErrorDocument
        from heft.cli.show import print_json

        print_json(ErrorDocument(error=Error(kind=kind, message=message, exit_status=status)).model_dump())
    sys.exit(status)
