"""Inputs that once made heft fail (torture/fuzz.py keeps them): each is read, or refused with a `HeftError`."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

sys.path.insert(0, str(ROOT / "torture"))
from targets import TARGETS, replay  # noqa: E402

CORPUS = sorted(path for path in (ROOT / "torture" / "corpus").glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: f"{path.parent.name}-{path.name[:6]}")
def test_an_input_that_once_was_a_fault_is_none(path, tmp_path):
    replay(path.parent.name, path.read_bytes(), tmp_path)


@pytest.mark.parametrize("kind", TARGETS)
def test_what_fuzzing_starts_from_is_accepted(kind, tmp_path):
    target = TARGETS[kind](tmp_path)
    seeds = target.seeds()
    assert seeds
    for data in seeds:
        target.run(data)


@pytest.mark.parametrize("kind", TARGETS)
def test_bytes_of_no_format_are_refused(kind, tmp_path):
    for data in (b"", b"\x00", b"\xff" * 20, b"{", b"[" * 100_000, b"\x00" * 4096):
        replay(kind, data, tmp_path)
