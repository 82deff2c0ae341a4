"""Rows from every kind of source, against the rows that were written."""

import csv
import gzip
import io
import json
import re

import pytest

from heft.errors import HeftError
from heft.tasks.table import read_table, splits_of

ROWS = [
    {"text": "It broke, again", "label": "007"},
    {"text": 'He said "no"\nand left', "label": "1"},
    {"text": "Café, ½ — ü", "label": ""},
]


def as_csv(rows=ROWS, delimiter=",", line_end="\r\n") -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0], delimiter=delimiter, lineterminator=line_end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_lines(rows=ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def written(folder, name: str, content: str | bytes):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", as_lines()),
        ("a.json", as_lines()),
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.jsonl", json.dumps(ROWS)),
        ("a.json", json.dumps({"version": 1, "tags": ["x"], "data": ROWS, "end": None})),
        ("a.csv", as_csv()),
        ("a.csv", as_csv(line_end="\n")),
        ("a.csv", as_csv(delimiter=";")),
        ("a.csv", "sep=;\r\n" + as_csv(delimiter=";")),
        ("a.csv", '"sep=\t"\n' + as_csv(delimiter="\t")),
        ("a.csv", "SEP=^\r\n" + as_csv(delimiter="^")),
        ("a.tsv", as_csv(delimiter="\t")),
        ("a.txt", as_csv(delimiter="\t")),
        ("a.csv.gz", gzip.compress(as_csv().encode())),
        ("a.jsonl.gz", gzip.compress(as_lines().encode())),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_a_file_gives_the_rows_that_were_written(tmp_path, name, content, encoding):
    if isinstance(content, bytes):
        content = gzip.compress(gzip.decompress(content).decode().encode(encoding))
    else:
        content = content.encode(encoding)
    path = written(tmp_path, name, content)
    assert [row for _, row in read_table(str(path))] == ROWS


def test_places_are_the_files_own_lines(tmp_path):
    lines = as_csv(line_end="\n")
    path = written(tmp_path, "a.csv", lines.replace('\n"Caf', '\n\n\n"Caf'))
    assert [where for where, _ in read_table(path)] == [f"{path}:2", f"{path}:3", f"{path}:7"]
    path = written(tmp_path, "c.csv", "sep=,\n" + lines)
    assert [where for where, _ in read_table(path)] == [f"{path}:3", f"{path}:4", f"{path}:6"]
    path = written(tmp_path, "b.json", json.dumps({"n": [1, [2]], "rows": ROWS}, indent=1))
    starts = [n for n, line in enumerate(path.read_text().splitlines(), 1) if line == "  {"]
    assert [where for where, _ in read_table(path)] == [f"{path}:{n}" for n in starts]


def test_one_chat_in_json_is_one_row(tmp_path):
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    for name in ("a.json", "a.jsonl"):
        path = written(tmp_path, name, json.dumps(chat))
        assert read_table(path) == [(f"{path}:1", chat)]


def test_parquet_data_sets_and_frames_give_the_same_rows(tmp_path):
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    data = datasets.Dataset.from_list(ROWS)
    data.to_parquet(tmp_path / "a.parquet")
    data.save_to_disk(str(tmp_path / "saved"))
    pandas.DataFrame(ROWS).to_parquet(tmp_path / "b.parquet")
    sources = {
        "a.parquet": tmp_path / "a.parquet",
        "b.parquet": tmp_path / "b.parquet",
        "saved": tmp_path / "saved",
        "data set": data,
        "data set[train]": datasets.DatasetDict(train=data, test=data.select([0])),
        "data frame": pandas.DataFrame(ROWS),
        "list": ROWS,
    }
    for where, source in sources.items():
        found = read_table(source)
        assert [row for _, row in found] == ROWS
        assert found[2][0].endswith(f"{where} row 2")
    assert len(read_table(sources["data set[train]"], split="test")) == 1
    assert splits_of(sources["data set[train]"]) == ["train", "test"]
    with pytest.raises(HeftError, match="has no split 'dev'; it has train, test"):
        read_table(sources["data set[train]"], split="dev")


def test_a_date_that_python_does_not_have_is_said(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    datasets = pytest.importorskip("datasets")
    table = pyarrow.table({"text": ["x"], "until": pyarrow.array([569_000_000_000], pyarrow.timestamp("s"))})
    parquet.write_table(table, tmp_path / "a.parquet")
    for source in (tmp_path / "a.parquet", datasets.Dataset(table)):
        with pytest.raises(HeftError, match="has a value that Python cannot hold .*; leave its column out"):
            read_table(source)


def test_a_transform_of_a_data_set_is_refused_and_not_left_out_in_silence():
    data = pytest.importorskip("datasets").Dataset.from_list([{"text": "x"}])
    with pytest.raises(HeftError, match="has a transform .* make its columns with map"):
        read_table(data.with_transform(lambda rows: {"text": [f"{text}!" for text in rows["text"]]}))
    for formatted in (data, data.with_format("numpy"), data.with_format("torch", columns=["text"])):
        assert read_table(formatted) == [("data set row 0", {"text": "x"})]


def test_labels_of_a_data_set_have_their_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["refund", "delay"])
    features = datasets.Features(text=datasets.Value("string"), label=label)
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, -1]}, features=features)
    data.to_parquet(tmp_path / "a.parquet")
    for source in (data, tmp_path / "a.parquet"):
        assert [row["label"] for _, row in read_table(source)] == ["delay", "refund", None]


def test_labels_in_lists_and_structs_have_their_names_too(tmp_path):
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["refund", "delay"])
    several = {
        "tags": datasets.List(label),
        "about": {"kind": label, "n": datasets.Value("int32")},
        "turns": [{"is": label}],
    }
    rows = [
        {"tags": [1, 0], "about": {"kind": 1, "n": 1}, "turns": [{"is": 0}, None, {"is": 1}]},
        {"tags": None, "about": {"kind": None, "n": 0}, "turns": []},
    ]
    data = datasets.Dataset.from_list(rows, features=datasets.Features(several))
    data.to_parquet(tmp_path / "a.parquet")
    for source in (data, tmp_path / "a.parquet"):
        assert [row for _, row in read_table(source)] == [
            {
                "tags": ["delay", "refund"],
                "about": {"kind": "delay", "n": 1},
                "turns": [{"is": "refund"}, None, {"is": "delay"}],
            },
            {"tags": None, "about": {"kind": None, "n": 0}, "turns": []},
        ]


def test_values_are_those_that_json_has():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"n": [1, 2], "x": [0.5, None], "day": pandas.to_datetime(["2026-01-31", None]), "tags": [["a"], ("b",)]}
    )
    rows = [row for _, row in read_table(frame)]
    assert json.loads(json.dumps(rows)) == [
        {"n": 1, "x": 0.5, "day": "2026-01-31T00:00:00", "tags": ["a"]},
        {"n": 2, "x": None, "day": None, "tags": ["b"]},
    ]
    assert type(rows[0]["n"]) is int


def test_a_relative_path_counts_from_the_folder(tmp_path):
    written(tmp_path, "a.csv", as_csv())
    assert len(read_table("a.csv", folder=tmp_path)) == len(ROWS)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "text\nCafé\n".encode("cp1252"), r"not UTF-8 \(line 2, byte 0xe9\); it looks like Windows-1252"),
        ("a.csv", "text,label\na,b,c\nd\nx,y\n1,2,3\n", r"3 of 4 rows have not the 2 cells"),
        ("a.csv", "text,text\na,b\n", "a.csv, first line: columns must have names, each once; twice there: 'text'"),
        ("a.csv", 'text,label\n"a,b\n', "quotes do not close"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.csv", "", "is empty; expected JSON Lines"),
        ("a.json", "[]", "has no rows"),
        ("a.json", '[1, {"a": 2}]', r"a.json:1: a number where an object"),
        ("a.json", '{"a": 1', "not JSON"),
        ("a.jsonl", "text,label\na,b\n", "expected one JSON object per line"),
        ("a.txt", "one line\nanother\n", "text without columns"),
        ("a.xlsx", b"PK\x03\x04rest", "Excel workbook"),
        ("a.parquet", b"PAR1 damaged", "no whole Parquet file"),
        ("a.csv.gz", gzip.compress(b"text\n" * 999, mtime=0)[:-20], "gzip compression is damaged"),
    ],
)
def test_what_is_no_table_is_refused_in_words(tmp_path, name, content, reason):
    with pytest.raises(HeftError, match=reason):
        read_table(str(written(tmp_path, name, content)))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
@pytest.mark.parametrize("between", ["\n", "\n\n", ",\n", ""])
def test_objects_over_several_lines_one_after_another_are_one_fault(tmp_path, name, between):
    path = written(tmp_path, name, between.join(json.dumps(row, indent=2) for row in [{"a": 1, "b": "{"}] * 3))
    with pytest.raises(HeftError) as raised:
        read_table(path)
    expected = "one JSON object per line, as `jq -c .` writes them, or one list of objects, [{…}, {…}]"
    assert str(raised.value) == f"{path}:1: the object that begins here ends on line 4; expected {expected}"


def test_one_object_over_several_lines_behind_others_is_told_at_its_line(tmp_path):
    with pytest.raises(HeftError, match=r"a\.jsonl:2: the object that begins here ends on line 4"):
        read_table(written(tmp_path, "a.jsonl", '{"a": 1}\n{\n"a": 2\n}\n{"a": 3}\n'))


@pytest.mark.parametrize("name", ["cp1252", "shift_jis", "cp1251"])
def test_an_encoding_that_is_given_is_that_of_what_is_not_unicode(tmp_path, name):
    text = {"cp1252": "Café – “crème”", "shift_jis": "東京タワー", "cp1251": "Здравствуйте"}[name]
    path = written(tmp_path, "a.csv", f"text\n{text}\n".encode(name))
    assert read_table(path, encoding=name) == [(f"{path}:2", {"text": text})]
    for unicode in ("utf-8", "utf-8-sig", "utf-16"):
        written(tmp_path, "a.csv", f"text\n{text}\n".encode(unicode))
        assert read_table(path, encoding=name) == [(f"{path}:2", {"text": text})]


def test_an_encoding_that_does_not_fit_or_does_not_exist_is_refused(tmp_path):
    path = written(tmp_path, "a.csv", b"text\nCaf\xe9\n")
    with pytest.raises(HeftError, match="neither in Unicode nor in ascii"):
        read_table(path, encoding="ascii")
    for name in ("cp1", "base64"):
        with pytest.raises(HeftError, match=f"{name!r} is no encoding"):
            read_table(path, encoding=name)


def test_every_bad_row_is_counted_and_a_cause_stands_once(tmp_path):
    path = written(tmp_path, "a.csv", "text,label\n" + "a,b\n" + "a,b,c\n" * 30)
    with pytest.raises(HeftError) as raised:
        read_table(path)
    assert "30 of 31 rows" in str(raised.value)
    assert f"{path}:3: 3 cells, where the header has 2 (and in 29 more: :4, :5, :6" in str(raised.value)
    assert str(raised.value).count("3 cells") == 1


def test_a_missing_file_is_answered_with_the_files_there_are(tmp_path):
    written(tmp_path, "b.csv", "x")
    with pytest.raises(HeftError, match="is not a file. .* has b.csv"):
        read_table(tmp_path / "a.csv")


def test_what_cannot_hold_rows_is_refused():
    with pytest.raises(HeftError, match="rows cannot be read from int"):
        read_table(3)
    with pytest.raises(HeftError, match="rows cannot be read from Table of pyarrow; expected .* a pandas DataFrame"):
        read_table(pytest.importorskip("pyarrow").table({"a": [1]}))
    with pytest.raises(HeftError, match="list row 1: expected a dict of columns; got str"):
        read_table([{"a": 1}, "b"])


def test_an_id_that_is_no_file_is_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HeftError, match="nobody/nothing is no file here, and cannot be opened .* owner/name:config"):
        read_table("nobody/nothing", folder=tmp_path)


def test_a_split_of_one_table_is_refused_and_never_all_of_its_rows(tmp_path):
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "saved"))
    data.to_parquet(tmp_path / "a.parquet")
    files = [written(tmp_path, "a.csv", as_csv()), written(tmp_path, "a.jsonl", as_lines())]
    for source in (*files, tmp_path / "a.parquet", tmp_path / "saved", data, pandas.DataFrame(ROWS), ROWS):
        with pytest.raises(HeftError, match="is one table, which has no split 'test'; leave the split out"):
            read_table(source, split="test")
    named = datasets.Dataset.from_list(ROWS, split="test")
    assert len(read_table(named, split="test")) == len(ROWS)


def test_values_by_which_pandas_says_that_there_is_none_are_none_in_lists_too():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a", None], "day": pandas.to_datetime(["2026-01-31", None])}).convert_dtypes()
    assert read_table(frame.to_dict("records"))[1] == ("list row 1", {"text": None, "day": None})


def test_nan_is_a_missing_value_in_lists_and_files_as_it_is_in_frames(tmp_path):
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"text": ["a", None], "score": [0.5, float("nan")]})
    pyarrow.parquet.write_table(
        pyarrow.table({"score": [0.5, float("nan")], "text": ["a", None]}), tmp_path / "a.parquet"
    )
    for source in (frame, frame.to_dict("records"), tmp_path / "a.parquet"):
        assert [row for _, row in read_table(source)] == [{"text": "a", "score": 0.5}, {"text": None, "score": None}]


def test_half_of_a_surrogate_pair_in_rows_of_python_is_refused_with_its_row():
    pandas = pytest.importorskip("pandas")
    rows = [{"text": "\U0001f600"}, {"text": "\U0001f600".encode("utf-16-le")[:2].decode("utf-16-le", "surrogatepass")}]
    assert read_table(rows[:1]) == [("list row 0", rows[0])]
    for source in (rows, [rows[0], {"text": [{"x": rows[1]["text"]}]}], pandas.DataFrame(rows, dtype=object)):
        with pytest.raises(HeftError, match=r"row 1: a text has '\\ud83d', half of a surrogate pair"):
            read_table(source)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("fault", ['"open', '"He" said'])
def test_a_fault_of_quotes_is_said_and_never_makes_one_column_of_all(tmp_path, delimiter, fault):
    lines = ["id;text", "1;plain", f"2;{fault}", "3;plain"]
    path = written(tmp_path, "a.csv", "\n".join(lines).replace(";", delimiter))
    with pytest.raises(HeftError, match=r"quotes do not close, or something stands behind them: .* begins on line 3"):
        read_table(path)


def test_a_table_that_pandas_wrote_by_columns_is_refused_with_the_way_to_write_rows(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a", "b"], "label": [0, 1]})
    frame.to_json(tmp_path / "a.json")
    with pytest.raises(
        HeftError, match=r"one object for each column, text, label, as pandas' to_json .* orient='records'"
    ):
        read_table(tmp_path / "a.json")
    frame.to_json(tmp_path / "b.json", orient="records", lines=True)
    assert [row for _, row in read_table(tmp_path / "b.json")] == frame.to_dict("records")


def test_a_parquet_file_with_two_columns_of_one_name_is_refused_with_it(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "twice.parquet"
    parquet.write_table(pyarrow.Table.from_arrays([["a"], ["b"], ["c"]], names=["text", "label", "label"]), path)
    with pytest.raises(HeftError, match="columns must have names, each once; twice there: 'label'"):
        read_table(str(path))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_delimiter_of_the_first_line_is_read_whatever_ends_lines(tmp_path, end):
    (tmp_path / "t.csv").write_bytes(end.join(["sep=;", "text;label", "a, b;x", ""]).encode())
    assert [row for _, row in read_table(str(tmp_path / "t.csv"))] == [{"text": "a, b", "label": "x"}]


def test_a_sign_that_stands_in_the_header_alone_divides_nothing(tmp_path):
    (tmp_path / "one.csv").write_text("question;part two\nWhat is it?\nWho was it?\n", encoding="utf-8")
    assert [row for _, row in read_table(str(tmp_path / "one.csv"))][0] == {"question;part two": "What is it?"}


def test_the_folder_of_a_bare_name_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HeftError, match=re.escape(f"nope.csv is not a file. {tmp_path} has no files of rows.")):
        read_table("nope.csv")
