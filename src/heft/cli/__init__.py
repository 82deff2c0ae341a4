"""The command line. `main` is the entry point; torch is imported when a command needs it."""

import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from heft.errors import HeftError
from heft.runtime import signals
from heft.text.escape import escape_controls

_INTERRUPTED = 130
"""Exit status after Ctrl-C, also Typer's: 128 and the number of SIGINT."""


def main() -> None:
    """Run the command line; a `HeftError` is one message and exit status 2, Ctrl-C is 130, and SIGTERM 143.

    With `--json` each of these is a JSON document on standard output too (heft.cli.documents).
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the encoding lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    as_json = wants_json(sys.argv[1:])
    try:
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
        if not as_json:
            raise
        if hasattr(error, "format_message"):  # typer's, of a command line that is wrong
            _fail(error.format_message(), "usage", error.exit_code, as_json)
        traceback.print_exc()
        _fail(f"{type(error).__name__}: {error}", "defect", 1, as_json)


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
