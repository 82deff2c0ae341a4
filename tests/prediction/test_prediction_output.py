"""Predictions as files: what another program reads, and what a format cannot hold is said before the work."""

import csv
import json

import pytest

import heft
from heft.errors import HeftError
from heft.prediction.output import require_place, require_writable, write_rows
from heft.tasks.table import read_table


def no_constant(text):
    raise ValueError(f"{text} is no JSON")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_lacks_are_null_and_nothing_in_a_table(tmp_path, value):
    rows = [{"a": value, "b": [1.5, value], "c": {"d": value}}]
    write_rows(tmp_path / "made.jsonl", rows)
    found = json.loads((tmp_path / "made.jsonl").read_text(), parse_constant=no_constant)
    assert found == {"a": None, "b": [1.5, None], "c": {"d": None}}
    write_rows(tmp_path / "made.csv", rows)
    with (tmp_path / "made.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"a": "", "b": "[1.5, null]", "c": '{"d": null}'}]


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("text", ["a\rb", "a\r", "\r\n", "a\nb", 'a"b', "a,b", "a\tb", ""])
def test_a_text_of_any_characters_is_one_cell(tmp_path, suffix, delimiter, text):
    pandas = pytest.importorskip("pandas")
    rows = [{"a": text, "b": "x"}, {"a": "y", "b": text}]
    path = tmp_path / f"made.{suffix}"
    write_rows(path, rows)
    frame = pandas.read_csv(path, sep=delimiter, keep_default_na=False)
    assert frame.to_dict("records") == rows == [row for _, row in read_table(path)]
    assert path.read_bytes().endswith(b"\n")
    assert b"\r\n" not in path.read_bytes().replace(text.encode(), b"")


@pytest.mark.parametrize("source", ["~/a.csv", "{folder}/b/../a.csv", "{folder}/link.csv"])
def test_the_file_of_the_rows_is_not_written_over_by_another_name_of_it(tmp_path, source, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "b").mkdir()
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "link.csv").symlink_to("a.csv")
    with pytest.raises(HeftError, match="is the file that the rows are in; give another"):
        require_place(tmp_path / "a.csv", source.format(folder=tmp_path))
    require_place(tmp_path / "new.csv", source.format(folder=tmp_path))


@pytest.mark.parametrize("values", [[{}, {}], [1, "x"], [2**70, 1], [[1, "x"], []]])
def test_what_parquet_cannot_hold_is_said_before_anything_is_answered(tmp_path, values):
    rows = [{"prompt": "x", "more": value} for value in values]
    output = tmp_path / "made.parquet"
    with pytest.raises(HeftError, match=r"Parquet cannot hold .* write .jsonl"):
        heft.predict("a run that is not even looked for", rows, output=output)
    with pytest.raises(HeftError, match=r"Parquet cannot hold .* write .jsonl"):
        write_rows(output, rows)
    assert not output.exists()
    require_writable(tmp_path / "made.jsonl", [("row 0", row) for row in rows])
