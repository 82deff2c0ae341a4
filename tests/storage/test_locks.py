"""One process at a time."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from heft.errors import HeftError
from heft.storage.locks import in_turn, locked

HOLD = """
import sys, pathlib, time
from heft.storage.locks import locked
with locked(pathlib.Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_directory_locked_by_another_process_is_refused_until_that_one_ends(tmp_path):
    directory = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with (
        pytest.raises(HeftError, match=f"another process is working on the run in {directory}"),
        locked(directory, "run"),
    ):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with locked(directory, "run"):
        pass


def test_it_is_free_again_after_the_block_however_that_ends(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path, "run"):
        raise ZeroDivisionError
    with locked(tmp_path, "run"):
        pass


@pytest.mark.skipif(os.name == "nt", reason="Windows has no flock")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_said_with_what_to_do(tmp_path, monkeypatch, number):
    """As NFS is without its lock service."""

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    for hold in (lambda: locked(tmp_path / "run", "run"), lambda: in_turn(tmp_path / "model")):
        with pytest.raises(HeftError, match=r"does not do what is asked of it, such as file locks"), hold():
            pass


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((HeftError, NotADirectoryError)), locked(tmp_path / "file" / "run", "run"):
        pass
