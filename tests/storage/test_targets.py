"""Where nothing can be written is said before the work, in words that name the place."""

import os
import threading
from pathlib import Path

import pytest

from heft.errors import HeftError
from heft.storage.targets import make_folder_of, new_folder, require_new_file, require_new_folder, require_possible

NEW = [lambda path: require_new_file(path, "rows"), require_new_folder, require_possible]


@pytest.fixture
def nothing_may_be_written(monkeypatch):
    """As for a user without rights; the superuser, as whom tests may run, is never refused."""
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)


@pytest.mark.parametrize("require", NEW)
def test_a_new_place_below_folders_that_are_not_there_yet_is_fine(tmp_path, require):
    require(tmp_path / "deep" / "er" / "a")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("require", NEW)
def test_a_file_in_the_way(tmp_path, require):
    (tmp_path / "file").write_text("1")
    with pytest.raises(HeftError, match=f"cannot be made: {tmp_path / 'file'} is a file"):
        require(tmp_path / "file" / "a" / "b")


@pytest.mark.parametrize("require", NEW)
def test_a_folder_that_may_not_be_written_to(tmp_path, require, nothing_may_be_written):
    with pytest.raises(HeftError, match=f"cannot be made: {tmp_path} cannot be written to; write elsewhere"):
        require(tmp_path / "a" / "b")


@pytest.mark.parametrize("require", NEW)
def test_a_name_that_is_too_long(tmp_path, require):
    with pytest.raises(HeftError, match="name is too long"):
        require(tmp_path / ("a" * 300))


def test_a_file_is_replaced_and_a_folder_is_not(tmp_path):
    (tmp_path / "a").write_text("1")
    require_new_file(tmp_path / "a", "rows")
    with pytest.raises(HeftError, match="is a folder; give the file to write rows to"):
        require_new_file(tmp_path, "rows")


def test_a_link_is_looked_at_where_it_leads(tmp_path):
    (tmp_path / "file").write_text("1")
    (tmp_path / "link").symlink_to(tmp_path / "file" / "a")
    with pytest.raises(HeftError, match=f"{tmp_path / 'file'} is a file"):
        require_new_file(tmp_path / "link", "rows")


def test_a_device_is_written_to_without_a_right_to_its_folder(nothing_may_be_written):
    require_new_file(Path("/dev/null"), "rows")


def test_a_new_folder_may_be_there_while_it_is_empty(tmp_path):
    require_new_folder(tmp_path)
    (tmp_path / "a").write_text("1")
    with pytest.raises(HeftError, match="is there already"):
        require_new_folder(tmp_path)


def test_a_new_folder_is_neither_where_one_is_nor_a_disk_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HeftError, match=r"\. is the folder that you are in, .* give a new folder in it, such as new"):
        require_new_folder(Path())
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    with pytest.raises(HeftError, match="a is a disk of its own, which no finished folder can take the place of"):
        require_new_folder(tmp_path / "a")


@pytest.mark.parametrize("require", NEW)
def test_links_in_a_circle(tmp_path, require):
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "loop" / "a", tmp_path / "loop"):
        with pytest.raises(HeftError, match="links there lead in a circle; remove them"):
            require(path)


def test_two_that_write_one_new_folder_do_it_in_turn_and_the_second_is_told(tmp_path):
    begun, faults = threading.Event(), []

    def second():
        begun.wait()
        try:
            with new_folder(tmp_path / "a") as partial:
                (partial / "second.txt").write_text("2")
        except HeftError as error:
            faults.append(str(error))

    other = threading.Thread(target=second)
    other.start()
    with new_folder(tmp_path / "a") as partial:
        (partial / "first.txt").write_text("1")
        begun.set()
        other.join(0.5)
        assert [path.name for path in partial.iterdir()] == ["first.txt"]
    other.join()
    assert faults == [f"{tmp_path / 'a'} is there already; give a new folder, or remove it first"]
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "first.txt"]


def test_the_folder_of_a_file_is_that_where_a_link_leads(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "a.txt")
    make_folder_of(tmp_path / "link")
    assert (tmp_path / "deep").is_dir()


def test_the_folder_of_a_file_is_made(tmp_path):
    make_folder_of(tmp_path / "deep" / "er" / "a.txt")
    make_folder_of(tmp_path / "deep" / "er" / "a.txt")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["er"]
    assert not any((tmp_path / "deep" / "er").iterdir())
