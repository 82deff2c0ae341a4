"""The command line. `main` is the entry point; nothing here imports torch before a command needs it."""

import sys

from heft.errors import HeftError


def main() -> None:
    """Run the command line; a `HeftError` is one message and exit status 2, Ctrl-C is exit status 130."""
    from heft.cli.app import app

    try:
        app()
    except HeftError as error:
        print(f"heft: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("heft: interrupted", file=sys.stderr)
        sys.exit(130)
