"""Figures in the words of tables."""

import pytest

from heft.text.units import in_bytes, in_flops, in_time, percent


@pytest.mark.parametrize(
    ("shown", "words"),
    [(in_bytes(0), "0 B"), (in_bytes(1536), "1.54 kB"), (in_flops(2.5e12), "2.5 TFLOP"), (in_time(None), "–")]
    + [
        (percent(None), "–"),
        (percent(0.8344), "83.4 %"),
        (in_time(4.24), "4.2 s"),
        (in_time(42), "42 s"),
        (in_time(300), "5.0 min"),
        (in_time(7200), "2.0 h"),
    ],
)
def test_figures_are_short(shown, words):
    assert shown == words
