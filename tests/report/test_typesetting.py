"""How texts are set on the page."""

import pytest

from heft.report.typesetting import breakable, code, isolated, unbroken


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("lowest for spam (85.0 %)", "lowest for spam (85.0 %)"),
        ("lowest for بريد مزعج (85.0 %)", "lowest for <bdi>بريد مزعج</bdi> (85.0 %)"),
        ("חיובי 40 %, שלילי 60 %", "<bdi>חיובי</bdi> 40 %, <bdi>שלילי</bdi> 60 %"),
        ("<b> & שלום", "&lt;b&gt; &amp; <bdi>שלום</bdi>"),
    ],
)
def test_words_from_right_to_left_stand_alone(text, markup):
    assert isolated(text) == markup


@pytest.mark.parametrize(
    ("text", "markup"),
    [
        ("سلبي 40 % of 20", '<bdi>سلبي</bdi> <span class="whole">40 %</span> of 20'),
        ("+1.2 (−0.3 to +2.7)", '+1.2 (<span class="whole">−0.3 to +2.7</span>)'),
        ("84.1–86.0", '<span class="whole">84.1–86.0</span>'),
        ("<i> 3 %", '&lt;i&gt; <span class="whole">3 %</span>'),
    ],
)
def test_no_line_ends_within_a_figure(text, markup):
    assert unbroken(text) == markup


def test_names_may_go_on_to_the_next_line():
    assert breakable("org/model_1.5.<x>") == "org/<wbr>model_<wbr>1.<wbr>5.&lt;x&gt;"


def test_backticks_are_code():
    assert code("Set `rank: <8>` higher") == "Set <code>rank: &lt;8&gt;</code> higher"
