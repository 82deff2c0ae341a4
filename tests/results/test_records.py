"""Records as files."""

import pytest

from heft.errors import HeftError
from heft.results.records import Record, read_records, write_records

RECORDS = [
    Record("a", 0, 1, False, (-0.1, -2.5), group="g"),
    Record("b", "12", None, False, text="I don't know\n“twelve”"),
]


def test_what_is_written_is_read_back(tmp_path):
    write_records(tmp_path / "r.jsonl", RECORDS)
    assert read_records(tmp_path / "r.jsonl") == RECORDS
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_record_that_is_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_records(tmp_path / "r.jsonl", [Record("a", 0, 0, True, (float("nan"),))])
    assert not (tmp_path / "r.jsonl").exists()


BROKEN = [
    "{",
    "[]",
    '{"id": "a"}',
    '{"id": 3, "gold": 0, "prediction": 0, "correct": true}',
    '{"id": "a", "gold": 0, "prediction": 0, "correct": true, "other": 1}',
    '{"id": "a", "gold": 0, "prediction": 0, "correct": true, "log_likelihoods": ["x"]}',
]


@pytest.mark.parametrize("line", BROKEN)
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "r.jsonl"
    write_records(path, RECORDS)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(HeftError, match=r"r\.jsonl:3: not a record"):
        read_records(path)


def test_missing_and_empty_files_are_said(tmp_path):
    with pytest.raises(HeftError, match="no such file"):
        read_records(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(HeftError, match="holds no records"):
        read_records(tmp_path / "empty.jsonl")


def test_reading_records_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, heft.results.records, heft.results.metrics; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
