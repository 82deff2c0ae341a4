"""What a search may spend, as people write it."""

import pytest

from heft.errors import HeftError
from heft.tune.budget import in_unit, parse_budget


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("90s", "seconds", 90),
        ("30m", "seconds", 1800),
        ("1.5h", "seconds", 5400),
        ("1d", "seconds", 86400),
        ("2e15flop", "flops", 2e15),
        ("2E15 FLOPs", "flops", 2e15),
        ("3epochs", "epochs", 3),
        ("1epoch", "epochs", 1),
        ("0.5epochs", "epochs", 0.5),
    ],
)
def test_a_budget_is_time_arithmetic_or_passes_of_lora(text, kind, amount):
    found = parse_budget(text)
    assert (found.kind, found.amount) == (kind, amount)


@pytest.mark.parametrize("text", ["30", "m", "", "30 parsecs", "-3m", "0s", "1e999flop", "1.2.3h", "nanm", "30m30s"])
def test_what_is_no_budget_is_said_with_what_is_one(text):
    with pytest.raises(HeftError, match="expected a time .*, FLOPs .* or passes of plain LoRA"):
        parse_budget(text)


def test_amounts_are_written_in_their_unit():
    assert (in_unit(90, "seconds"), in_unit(2e12, "flops")) == ("90 s", "2 TFLOP")
