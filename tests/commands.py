"""The command line in a process of its own, as a person uses it."""

import os
import subprocess
import sys

COMMAND = [sys.executable, "-c", "from heft.cli import main; main()"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def heft(*arguments, cwd=None):
    """Run a command to its end."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT)
