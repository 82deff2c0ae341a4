"""The command line. `main` is the entry point; torch is imported when a command needs it."""

import sys

from heft.errors import HeftError
from heft.runtime import signals
from heft.text.escape import escape_controls

_INTERRUPTED = 130
"""Exit status after Ctrl-C, also Typer's: 128 and the number of SIGINT."""


def main() -> None:
    """Run the command line; a `HeftError` is one message and exit status 2, Ctrl-C is 130, and SIGTERM 143."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that the encoding lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        from heft.cli.app import app

        app(prog_name="heft")
    except HeftError as error:
        print(escape_controls(f"heft: {error}"), file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != _INTERRUPTED:
            raise
        print("heft: interrupted", file=sys.stderr)
        sys.exit(128 + signals.last())
