"""Reads of files that a stranger made."""

import json
import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heft.errors import HeftError
from heft.storage import reading
from heft.storage.reading import absolute_path, parse_json, read_bytes, read_json, read_lines

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**50), 10**50)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda below: st.lists(below) | st.dictionaries(st.text(), below),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_json_is_read_as_python_reads_it(value, is_ascii):
    assert parse_json(json.dumps(value, ensure_ascii=is_ascii).encode()) == value


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_whatever_the_bytes_are_there_is_a_value_or_a_reason(content):
    try:
        value, reason = parse_json(content), ""
    except ValueError as error:
        value, reason = None, str(error)
    assert reason or value == json.loads(content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"a": 1, "b": {"a": 1, "a": 2}}', "the key 'a' stands there twice"),
        (b"NaN", "NaN is no JSON"),
        (b"-Infinity", "-Infinity is no JSON"),
        (b"-1e999", "the number -1e999 is out of range"),
        (b"9" * 301, "a number of 301 digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'"\xc3"', "not UTF-8 (byte 2 of the line)"),
        (b'{\n"\xff"', "not UTF-8 (byte 2 of line 2)"),
        (b'"\x00"', "Invalid control character"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
    ],
)
def test_what_others_would_read_otherwise_is_refused(content, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_json(content)


def test_numbers_that_are_none_are_read_where_they_are_allowed():
    value = parse_json(b'{"loss": NaN, "other": -Infinity}', finite=False)
    assert math.isnan(value["loss"])
    assert value["other"] == -math.inf


@pytest.mark.parametrize("read", [read_bytes, read_json, lambda path: list(read_lines(path))])
def test_a_pipe_a_device_a_folder_and_nothing_are_refused_without_waiting(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    for path, told in (
        (tmp_path / "pipe", "a pipe or a device"),
        ("/dev/zero", "a pipe or a device"),
        (tmp_path, "a folder"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "a\x00b", "null byte"),
        (tmp_path / ("x" * 5000), "name too long"),
    ):
        with pytest.raises(HeftError, match=told):
            read(path)


def test_a_file_over_its_bound_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(HeftError, match="larger than 1,048,576 bytes"):
        read_json(tmp_path / "large")
    with pytest.raises(HeftError, match="larger than 2,147,483,648 bytes"):
        list(read_lines(tmp_path / "large"))
    monkeypatch.setattr(reading, "LINE_LIMIT", 5)
    (tmp_path / "long").write_text("{}\n[1, 2, 3]\n")
    with pytest.raises(HeftError, match="line 2 is longer than 5 bytes"):
        list(read_lines(tmp_path / "long"))


def test_the_size_limit_holds_for_the_bytes_read_whatever_size_the_file_reports(tmp_path):
    path = tmp_path / "grows"
    path.write_text("1\n")
    lines = read_lines(path, limit=20)
    assert next(lines) == (1, b"1\n")
    with path.open("ab") as file:
        file.write(b"22222\n" * 4000)  # more than was read ahead
    with pytest.raises(HeftError, match="larger than 20 bytes"):
        list(lines)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no /proc here")
@pytest.mark.parametrize("read", [read_bytes, lambda path: list(read_lines(path))])
def test_an_ordinary_file_that_cannot_be_read_from_is_refused_in_words(read):
    with pytest.raises(HeftError, match="/proc/self/mem cannot be read: Input/output error"):
        read("/proc/self/mem")


def test_lines_are_numbered_from_one_and_end_with_line_feeds_only(tmp_path):
    (tmp_path / "f").write_bytes('"\u2028"\r\n\n \n"\x85"\n3'.encode())
    assert list(read_lines(tmp_path / "f")) == [(1, '"\u2028"\r\n'.encode()), (4, '"\x85"\n'.encode()), (5, b"3")]


@pytest.mark.parametrize("text", ["link/../file", "link/./down/../../file", "real/../file", "a/link/../../file"])
def test_above_a_link_is_the_folder_that_the_system_finds_there(tmp_path, monkeypatch, text):
    for folder in ("", "a", "a/b"):
        (tmp_path / folder / "real" / "down").mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    (tmp_path / "link").symlink_to("a/b/real")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "b" / "real")
    monkeypatch.chdir(tmp_path)
    found = absolute_path(Path(text))
    assert found.is_absolute()
    assert ".." not in found.parts
    assert os.path.samefile(found, text)
    assert absolute_path(Path("link/down")) == tmp_path / "link" / "down"  # a link is kept that nothing is above of
