"""Figures in the words of tables."""

import pytest

from heft.text.units import in_bytes, in_digits, in_flops, in_time, percent


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
        (in_bytes(999.4), "999 B"),
        (in_bytes(999.6), "1 kB"),
        (in_bytes(999_600), "1 MB"),
        (in_flops(9.996e14), "1 PFLOP"),
        (in_flops(2.5e22), "25,000 EFLOP"),
        (in_digits(999.7), "1,000"),
        (in_digits(-123.4, 2), "−120"),
        (in_digits(0.0123), "0.0123"),
    ],
)
def test_figures_are_short(shown, words):
    assert shown == words
