"""Records as files, whatever they hold."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heft.errors import HeftError
from heft.results.records import Record, read_records, write_records

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
GENERATED = st.builds(
    Record, id=TEXT, gold=TEXT, prediction=st.none() | TEXT, correct=st.booleans(), text=st.none() | TEXT, prompt=TEXT
)


@st.composite
def chosen(draw):
    """A record of a question with choices."""
    scores = draw(st.lists(FLOATS, min_size=1, max_size=5))
    gold, prediction = (draw(st.integers(0, len(scores) - 1)) for _ in range(2))
    group = draw(st.none() | TEXT)
    return Record(draw(TEXT), gold, prediction, gold == prediction, tuple(scores), group, prompt=draw(TEXT))


@given(st.lists(GENERATED | chosen(), min_size=1))
def test_what_is_written_is_read_back_equal_whatever_texts_hold(records):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.jsonl"
        write_records(path, records)
        assert read_records(path) == records


def test_a_text_with_line_ends_of_every_kind_stays_one_record(tmp_path):
    record = Record("a", "x", None, False, text="a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\nh\ri")
    write_records(tmp_path / "r.jsonl", [record, record])
    assert read_records(tmp_path / "r.jsonl") == [record, record]


GOOD = {"id": "a", "gold": 0, "prediction": 1, "correct": False, "log_likelihoods": [-1.0, -0.5]}
WRONG = [
    ({"gold": 2}, "gold must be the index of a choice, 0 to 1; got 2"),
    ({"gold": -1}, "gold must be the index"),
    ({"gold": True}, "gold: expected a whole number or text; got true"),
    ({"gold": 0.0}, "gold: expected a whole number or text; got 0.0"),
    ({"gold": ["x"]}, "gold: expected a whole number or text; got ['x']"),
    ({"prediction": None}, "prediction must be the index of a choice, since"),
    ({"correct": 0}, "correct: expected true or false; got 0"),
    ({"log_likelihoods": [True, 0.5]}, "log_likelihoods[0]: expected a number; got true"),
    ({"log_likelihoods": None}, "log_likelihoods: expected a list (each entry: a number); got null"),
    ({"group": 3}, "group: expected text, or null; got 3"),
    ({"text": {}}, "text: expected text, or null; got {}"),
    ({"more": 1, "other": 2}, "more: unknown key; known here: correct, cut,"),
]


@pytest.mark.parametrize(("change", "told"), WRONG)
def test_a_value_of_another_kind_is_named(tmp_path, change, told):
    (tmp_path / "r.jsonl").write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | change) + "\n")
    with pytest.raises(HeftError) as error:
        read_records(tmp_path / "r.jsonl")
    assert str(error.value).startswith(f"{tmp_path / 'r.jsonl'}:2: not a record: ")
    assert told in str(error.value)


@pytest.mark.parametrize("line", ['{"id": "a", "id": "b"}', "NaN", '{"id": 1e999}', '"\\ud800"', "[" * 100_000])
def test_json_that_is_read_differently_by_others_is_refused(tmp_path, line):
    (tmp_path / "r.jsonl").write_text(line)
    with pytest.raises(HeftError, match="1: not a record: "):
        read_records(tmp_path / "r.jsonl")
