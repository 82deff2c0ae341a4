"""docs/choosing.md: every figure of a row or a paragraph stands in a document that it names."""

import re
from pathlib import Path

import pytest

from heft.recipe.defaults import epochs_for, rate_for

DOCUMENT = Path(__file__).parents[1] / "docs/choosing.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
CLAIMS = [line for line in TEXT.splitlines() if line.startswith("| ") and re.search(r"\d\.\d", line)]
CLAIMS += [part for part in TEXT.split("\n\n") if not part.startswith("|") and re.search(r"\d\.\d", part)]


def figures(text: str) -> list[str]:
    return re.findall(r"\d+\.\d+", text)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[:40].strip("|* "))
def test_the_figures_of_a_claim_stand_where_it_says(claim):
    sources = [DOCUMENT.parent / link for link in re.findall(r"\]\(([^)]+)\)", claim)]
    there = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert not [figure for figure in figures(claim) if figure not in there]


def test_there_are_claims():
    assert len(CLAIMS) >= 10


def test_what_auto_is_said_to_be_is_what_it_is():
    assert [rate_for("lora", size) for size in (135e6, 3e9, 7e9)] == [1e-3, 5e-4, 2e-4]
    assert [rate_for("reft", size) for size in (135e6, 3e9, 7e9)] == [2e-3, 1e-3, 5e-4]
    assert [epochs_for(rows, 16) for rows in (100, 240, 1000, 3_000, 20_000)] == [12, 8, 3, 2, 1]
    for said in (
        "1e-3 for LoRA and 2e-3 for ReFT",
        "120 steps",
        "between 3 and 12",
        "from 3,000 rows 2, from 20,000 one",
    ):
        assert said in TEXT
