"""The command line, as a person uses it: within this process, or, by `COMMAND`, in one of its own."""

import io
import os
import subprocess
import sys
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from importlib import import_module
from tempfile import TemporaryFile
from unittest.mock import patch

from children import in_a_child

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
    """As `heft`, in a forked process, whose modules are its own; like `COMMAND`, it finds those in the folder."""
    import_module("heft.run.train")  # the libraries, in case this is the first test
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:

        def work() -> None:
            sys.path.insert(0, "")
            done = heft(*arguments, cwd=cwd)
            print(done.stdout, end="", file=out, flush=True)
            print(done.stderr, end="", file=err, flush=True)
            raise SystemExit(done.returncode)

        status = os.waitstatus_to_exitcode(os.waitpid(in_a_child(work), 0)[1])
        texts = [file.seek(0) or file.read() for file in (out, err)]
        return subprocess.CompletedProcess(list(map(str, arguments)), status, *texts)
