"""Work in a forked process, which has everything imported already."""

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path


def in_a_child(work: Callable[[], None], log: Path | None = None) -> int:
    """Start work in a forked process, which has everything imported already; its process id.

    It says nothing; what it raises is written to `log`, where that is given.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        work()
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException as error:
        if log is not None:
            log.write_text(f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")
    finally:
        os._exit(status)


def was_killed(child: int) -> bool:
    """Wait for a child; whether SIGKILL ended it. Any other end but a good one is an error."""
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the run failed"
    return False
