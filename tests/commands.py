"""The command line, as a person uses it: within this process, or, by `COMMAND`, in one of its own."""

import io
import os
import subprocess
import sys
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from unittest.mock import patch

COMMAND = [sys.executable, "-c", "from heft.cli import main; main()"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def heft(*arguments, cwd=None):
    """Run a command to its end, within this process, which has the libraries imported already.

    An exception that is no message for people is raised, and not printed.
    """
    from heft.cli import main

    words, out, err, status = list(map(str, arguments)), io.StringIO(), io.StringIO(), 0
    with ExitStack() as meanwhile:
        meanwhile.enter_context(patch.object(sys, "argv", ["heft", *words]))
        meanwhile.enter_context(patch.dict(os.environ, {"HF_HUB_OFFLINE": "1"}))
        meanwhile.enter_context(redirect_stdout(out))
        meanwhile.enter_context(redirect_stderr(err))
        if cwd is not None:
            meanwhile.enter_context(chdir(cwd))
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def heft_alone(*arguments, cwd=None):
    """As `heft`, in a process of its own: for what imports modules, or ends them."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT)
