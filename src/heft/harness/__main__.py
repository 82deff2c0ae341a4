"""`python -m heft.harness`: the harness's own command, `lm_eval`, which then knows the model `heft`."""

import sys

from heft.errors import HeftError
from heft.text.escape import escape_controls


def main() -> None:
    """Run the harness's command line; a `HeftError` is one message and exit status 2."""
    try:
        from heft.harness.registration import require_harness

        require_harness()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except HeftError as error:
        print(escape_controls(f"heft: {error}"), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
