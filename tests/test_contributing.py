"""CONTRIBUTING says where things are, by file and line: each line is the one it claims to be."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACE = re.compile(r"`(src/[\w/]+\.py):(\d+)` `([\w.]+)`")
PLACES = PLACE.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def test_it_names_the_places_that_a_newcomer_asks_for():
    assert len(PLACES) >= 6


@pytest.mark.parametrize(("file", "line", "name"), PLACES, ids=[name for *_, name in PLACES])
def test_a_place_is_at_its_line(file, line, name):
    defines = re.compile(rf"\s*(class |def )?{re.escape(name.rpartition('.')[2])}\b")
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    found = [number for number, text in enumerate(lines, start=1) if defines.match(text)]
    assert int(line) in found, f"{name} is at line {found[0]} of {file} now; say so in CONTRIBUTING.md"
