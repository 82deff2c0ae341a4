"""Files and folders are there whole or not at all."""

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from heft.errors import HeftError
from heft.storage import atomic as files
from heft.storage.atomic import (
    append_line,
    atomic_folder,
    atomic_write,
    readable_os_errors,
    save_tensors,
    sha256_of,
    write_text,
)


def entries(folder):
    return sorted(each.name for each in folder.iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write("new" * (1 // 0))
    assert (path.read_text(), entries(tmp_path)) == ("old", ["a.txt"])


def test_a_link_stays_one_and_its_file_is_written(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "a.txt"
    link.symlink_to(tmp_path / "disk" / "real.txt")  # nothing there yet
    for text in ("old", "new"):
        write_text(link, text)
        assert (link.is_symlink(), (tmp_path / "disk" / "real.txt").read_text()) == (True, text)
    assert (entries(tmp_path), entries(tmp_path / "disk")) == (["a.txt", "disk"], ["real.txt"])


def test_a_link_into_a_folder_that_is_not_there_is_told_by_the_place_that_it_names(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "a.txt")
    with pytest.raises(HeftError, match=f"{tmp_path / 'gone' / 'a.txt'} cannot be written .*its folder is not there"):
        write_text(tmp_path / "link", "1")


def test_a_folder_is_written_where_a_link_to_an_empty_one_leads(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    with atomic_folder(tmp_path / "link") as partial:
        (partial / "a.txt").write_text("1")
    assert ((tmp_path / "link").is_symlink(), entries(tmp_path / "disk")) == (True, ["a.txt"])


def test_two_that_write_one_file_at_once_do_not_write_into_each_others(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as one:
        one.write("the first, which is longer")
        with atomic_write(path) as other:
            other.write("the second")
        assert path.read_text() == "the second"
    assert (path.read_text(), entries(tmp_path)) == ("the first, which is longer", ["a.txt"])


def test_a_file_that_is_written_anew_keeps_who_may_read_it(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    path.chmod(0o600)
    write_text(path, "new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_name_may_be_as_long_as_the_disk_takes_it(tmp_path):
    write_text(tmp_path / ("ü" * 127), "1")
    assert entries(tmp_path) == ["ü" * 127]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no /dev/shm")
def test_a_file_in_memory_is_replaced_as_any_other():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for text in ("old", "new"):
            write_text(Path(folder, "a.txt"), text)
        assert Path(folder, "a.txt").read_text() == "new"


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="this system has no /dev/stdout")
@pytest.mark.parametrize("to", ["a pipe", "a file"])
def test_ones_own_output_is_written_to_and_not_replaced(tmp_path, to):
    before = os.readlink("/dev/stdout")
    code = """
from pathlib import Path
from heft.storage.atomic import write_text
print("first", flush=True)
write_text(Path("/dev/stdout"), "second\\n")
"""
    with open(tmp_path / "out.txt", "w+") as file:
        there = subprocess.PIPE if to == "a pipe" else file
        done = subprocess.run([sys.executable, "-c", code], stdout=there, text=True)
        file.seek(0)
        assert (done.stdout or file.read()) == "first\nsecond\n"
    assert os.readlink("/dev/stdout") == before


def test_a_pipe_gets_the_whole_or_nothing(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "pipe") as file:
        file.write("half" * (1 // 0))
    write_text(tmp_path / "pipe", "whole")
    assert os.read(reader, 100) == b"whole"
    os.close(reader)
    assert entries(tmp_path) == ["pipe"]


def test_nobody_sees_a_file_before_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_write(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_folder_appears_with_all_that_is_in_it(tmp_path):
    with atomic_folder(tmp_path / "deep" / "a") as partial:
        (partial / "b").mkdir()
        (partial / "b" / "c.txt").write_text("1")
        assert not (tmp_path / "deep" / "a").exists()
    assert (tmp_path / "deep" / "a" / "b" / "c.txt").read_text() == "1"
    assert entries(tmp_path / "deep") == ["a"]


def test_what_an_earlier_attempt_left_is_not_in_the_new_folder(tmp_path):
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "old.txt").write_text("1")
    with atomic_folder(tmp_path / "a") as partial:
        (partial / "new.txt").write_text("2")
    assert entries(tmp_path / "a") == ["new.txt"]


def test_a_folder_whose_writer_fails_is_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "a") as partial:
        (partial / "b.txt").write_text("1" * (1 // 0))
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "is read-only"), (errno.EACCES, "may not write there")],
)
def test_what_the_system_refuses_is_said_with_what_to_do(tmp_path, monkeypatch, number, advice):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    write_text(tmp_path / "a.txt", "old")
    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(HeftError, match=rf"a\.txt cannot be written \({os.strerror(number)}\): .*{advice}"):
        write_text(tmp_path / "a.txt", "new")
    assert ((tmp_path / "a.txt").read_text(), entries(tmp_path)) == ("old", ["a.txt"])


def test_all_of_it_is_on_the_disk_before_it_takes_its_place_and_its_name_after(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: calls.append(os.fstat(handle).st_ino))
    for name in ("replace", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *paths, name=name, real=real: (calls.append(name), real(*paths)))
    write_text(tmp_path / "a.txt", "1")
    with atomic_folder(tmp_path / "b") as partial:
        (partial / "c.txt").write_text("1")
    inode_of = {each.name: each.stat().st_ino for each in [tmp_path, *tmp_path.rglob("*")]}
    file, folder, within, above = (inode_of[name] for name in ("a.txt", "b", "c.txt", tmp_path.name))
    assert calls == [file, "replace", above, within, folder, "rename", above]


def test_what_is_in_the_way_is_said_and_other_errors_are_not_swallowed(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(HeftError, match=r"cannot be written \(.*\): its folder is not there, or no more; make it"):
        write_text(tmp_path / "missing" / "a.txt", "1")
    for path in (tmp_path / "folder", tmp_path / "file" / "a.txt"):
        with pytest.raises(HeftError, match=r"cannot be written \(.*\): something else is in the way there; move it"):
            write_text(path, "1")
    with pytest.raises(HeftError, match="its name is too long for that disk"):
        write_text(tmp_path / ("x" * 300), "1")
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop", tmp_path / "loop" / "a.txt"):
        with pytest.raises(HeftError, match="links there lead in a circle"):
            write_text(path, "1")
    with pytest.raises(OSError, match="worn out"), readable_os_errors(tmp_path):
        raise OSError(errno.EIO, "worn out")


def test_lines_are_appended_whole(tmp_path):
    for line in ("a", "ü"):
        append_line(tmp_path / "a.jsonl", line)
    assert (tmp_path / "a.jsonl").read_bytes() == "a\nü\n".encode()


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"heft" * 10_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"heft" * 10_000).hexdigest()


def test_tensors_that_cannot_be_written_are_an_error_of_the_system(tmp_path):
    import torch

    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)):
        save_tensors({"a": torch.zeros(2)}, tmp_path / "missing" / "a.safetensors")


@pytest.mark.parametrize("inside", ["a.txt", "weights/a.txt"])
def test_a_file_that_cannot_be_read_while_another_is_written_is_the_one_that_is_named(tmp_path, inside):
    source, place = tmp_path / "source" / inside, tmp_path / "new"
    with pytest.raises(HeftError) as caught, atomic_folder(place) as partial:
        shutil.copyfile(source, partial / "a.txt")
    assert str(caught.value) == f"{source} cannot be read (No such file or directory), so {place} was not written"
    with pytest.raises(HeftError, match=f"{re.escape(str(place))} cannot be written"), atomic_folder(place) as partial:
        (partial / "missing" / "a.txt").write_text("x")
    assert list(tmp_path.iterdir()) == []
