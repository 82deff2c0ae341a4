"""Parts of columns by paths with dots."""

import pytest

from heft.errors import HeftError
from heft.tasks.rows.cells import cell, has_cell

ROW = {
    "text": "x",
    "a.b": "own name",
    "a": {"b": "part", "c": {"d": [10, {"e": 11}]}},
    "dots.in.name": {"part": 1},
    "none": None,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", "x"),
        ("a.b", "own name"),
        ("a.c.d.0", 10),
        ("a.c.d.1.e", 11),
        ("dots.in.name.part", 1),
        ("none", None),
        ("none.b.0", None),
        ("a.c.d.7", None),
    ],
)
def test_a_path_leads_to_a_part_and_a_columns_own_name_comes_first(name, value):
    assert cell(ROW, name) == value
    assert has_cell(ROW, name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("b", r"there is no column 'b' \(the row has text, a.b, a, dots.in.name, none\)"),
        ("b.c", "there is no column 'b.c'"),
        ("a.x", "a has no 'x'; it is "),
        ("a.c.d.e", "a.c.d has no 'e'; it is "),
        ("text.0", "text has no '0'; it is 'x'"),
        ("a.c.d.99999999999999999999", "a.c.d has no '9+'"),
    ],
)
def test_what_is_not_there_is_said_at_its_place(name, told):
    with pytest.raises(HeftError, match=told):
        cell(ROW, name)
    assert not has_cell(ROW, name)
