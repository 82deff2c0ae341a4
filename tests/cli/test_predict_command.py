"""`heft predict`: any table in, the same rows with predictions out, whole or not at all."""

import csv
import json
import subprocess

import pytest
from pyarrow import parquet

from commands import COMMAND, ENVIRONMENT, heft
from heft.cli.documents import PredictDocument
from heft.cli.predict import predict
from heft.errors import HeftError
from heft.prediction.opening import opening
from heft.prediction.output import output_rows, write_rows
from heft.prediction.predict import predict_rows
from prediction.predicting import STAGES, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("predict"), "boolq", STAGES)[:2]


@pytest.fixture(scope="module")
def expected(run):
    """The rows that come out, by definition, of rows without answers."""
    directory, rows = run
    asked = [{"id": f"00{i}", "question": row["question"], "passage": row["passage"]} for i, row in enumerate(rows)]
    return output_rows(predict_rows(opening(directory).load(), [(str(i), row) for i, row in enumerate(asked)]))


@pytest.fixture
def table(run, tmp_path):
    """The rows without answers, as CSV."""
    path = tmp_path / "new rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "question", "passage"])
        writer.writeheader()
        writer.writerows(
            {"id": f"00{i}", "question": row["question"], "passage": row["passage"]} for i, row in enumerate(run[1])
        )
    return path


def as_text(row):
    return {key: str(value) for key, value in row.items()}


def test_every_format_holds_the_same_rows_in_order(run, table, expected, tmp_path):
    directory, _ = run
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        predict(directory, str(table), output=tmp_path / "out" / f"made{suffix}")
    made = tmp_path / "out/made"
    with made.with_suffix(".csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [as_text(row) for row in expected]
    with made.with_suffix(".tsv").open(newline="") as file:
        assert list(csv.DictReader(file, delimiter="\t")) == [as_text(row) for row in expected]
    assert [json.loads(line) for line in made.with_suffix(".jsonl").read_text().splitlines()] == expected
    assert parquet.read_table(made.with_suffix(".parquet")).to_pylist() == expected
    assert not list(made.parent.glob("*.partial"))


def test_a_number_that_parquet_cannot_hold_is_refused_in_words(tmp_path):
    with pytest.raises(HeftError, match=r"made.parquet: Parquet cannot hold .* too large.*; write .jsonl"):
        write_rows(tmp_path / "made.parquet", [{"n": 2**70}])
    write_rows(tmp_path / "made.jsonl", [{"n": 2**70}])
    assert json.loads((tmp_path / "made.jsonl").read_text()) == {"n": 2**70}


def test_without_a_file_rows_are_on_standard_output_and_all_else_beside_it(run, table, expected):
    done = heft("predict", run[0] / "adapter", table)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    assert "9 rows in" in done.stderr
    assert "rows per second" in done.stderr
    assert "accuracy" not in done.stderr


def test_a_reader_that_stops_ends_it_quietly(run, table):
    command = [*COMMAND, "predict", str(run[0]), str(table)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    process.stdout.close()
    stderr = process.stderr.read().decode()
    assert process.wait() == 0
    assert "Traceback" not in stderr
    assert "rows per second" in stderr


def test_accuracy_is_told_where_the_answers_are_there(run, tmp_path, capsys):
    directory, rows = run
    file = tmp_path / "known.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict(directory, str(file), output=tmp_path / "made.csv", stages=["coarse"], batch_size=2)
    told = capsys.readouterr().err
    records = [json.loads(line) for line in (directory / "records/coarse.jsonl").read_text().splitlines()]
    share = sum(record["correct"] for record in records) / len(records)
    assert f"accuracy {100 * share:.1f} %" in told
    assert "on the 9 rows that have an answer" in told


def test_nothing_is_written_where_rows_cannot_be_used_unless_they_are_skipped(run, tmp_path):
    directory, rows = run
    bad = [*rows[:2], {"question": "no passage"}, {"question": "", "passage": "p"}]
    file, output = tmp_path / "bad.jsonl", tmp_path / "made.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in bad))
    told = r"2 of 4 rows cannot be used(.|\n)*bad.jsonl:3: passage is missing(.|\n)*bad.jsonl:4: question is empty"
    with pytest.raises(HeftError, match=told):
        predict(directory, str(file), output=output)
    assert not output.exists()
    predict(directory, str(file), output=output, skip_bad_rows=True)
    made = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["prediction"] is None for row in made] == [False, False, True, True]
    assert [row["question"] for row in made] == [row["question"] for row in bad]


def test_a_file_that_cannot_be_written_is_told_before_anything_is_loaded(run, table, tmp_path, monkeypatch):
    monkeypatch.setattr("heft.prediction.opening.load_base", None)
    for output, told in (
        ("made.xlsx", "expected one of .jsonl, .csv, .tsv, .parquet"),
        ("made", "the format follows from the suffix"),
        (tmp_path / "folder.csv", "is a folder"),
        (table / "made.csv", "is a file"),
        (table, "is the file that the rows are in"),
    ):
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        with pytest.raises(HeftError, match=told):
            predict(run[0], str(table), output=type(table)(output))


def test_a_column_that_is_there_already_is_told(run, table, expected, tmp_path):
    again = tmp_path / "again.jsonl"
    again.write_text("".join(json.dumps(row) + "\n" for row in expected))
    with pytest.raises(HeftError, match="the rows have a column prediction already"):
        predict(run[0], str(again), output=tmp_path / "made.csv")


def test_json_prints_one_document_beside_the_file(run, tmp_path):
    directory, rows = run
    asked, out = tmp_path / "asked.jsonl", tmp_path / "out.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = heft("predict", directory, asked, "--output", out, "--json")
    document = PredictDocument.model_validate_json(done.stdout, strict=True)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert (document.output, document.rows, document.n, document.unusable) == (str(out), len(rows), len(rows), 0)
    right = [
        str(each["prediction"]) == ("yes" if row["answer"] else "no") for each, row in zip(found, rows, strict=True)
    ]
    assert document.accuracy == sum(right) / len(rows)
    assert "rows that have an answer" not in done.stdout


def test_json_without_a_file_is_refused_with_the_way_out(run, table):
    done = heft("predict", run[0], table, "--json")
    assert done.returncode == 2
    assert "--output FILE" in json.loads(done.stdout)["error"]["message"]


def test_quiet_leaves_rows_and_the_last_lines(run, table):
    done = heft("predict", run[0], table, "--quiet")
    assert len(done.stdout.splitlines()) == len(run[1])
    assert done.stderr == ""
