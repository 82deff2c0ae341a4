import pytest

from heft.report.pareto import frontier
from heft.report.parts import Cell, Heading, Table, figure
from heft.text.listing import letter, listed
from heft.text.svg import Axis, Drawing, axis
from heft.text.units import count, in_digits, percent, points_interval


def test_the_ends_of_the_axes_are_the_corners_of_the_plot():
    drawing = Drawing(Axis("x", 0, 10), Axis("y", 1, 100, log=True))
    left, bottom = drawing.at((0, 1))
    right, top = drawing.at((10, 100))
    assert drawing.at((5, 10)) == pytest.approx(((left + right) / 2, (bottom + top) / 2))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 17), (0.981, 0.9994), (0, 4e15)])
def test_ticks_are_few_and_inside(low, high):
    ticks = Axis("x", low, high).ticks()
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (74.4012, 74.4093), (0.00031, 0.00032), (1_000_000, 1_000_400)])
def test_ticks_differ_in_words(low, high):
    texts = [text for _, text in axis("x", [low, high]).ticks_in_words()]
    assert len(set(texts)) == len(texts) >= 2
    assert len(texts[0]) < 18


def test_ticks_have_three_digits_where_these_suffice():
    found = Axis("x", 0.3, 0.52).ticks_in_words()
    assert found == [(0.3, "0.3"), (0.35, "0.35"), (0.4, "0.4"), (0.45, "0.45"), (0.5, "0.5")]


def test_an_axis_that_counts_has_whole_numbers_only_each_in_its_place():
    assert axis("layer", [-0.5, 1.5], low=-0.5, high=1.5, words=count, whole=True).ticks_in_words() == [
        (0.0, "0"),
        (1.0, "1"),
    ]
    assert [text for _, text in axis("steps", [0, 2], low=0, words=count, whole=True).ticks_in_words()] == [*"012"]


def test_an_axis_is_logarithmic_only_where_values_spread_wide_and_are_above_0():
    assert axis("x", [1, 100], may_be_log=True).log
    assert not axis("x", [1, 10], may_be_log=True).log
    assert not axis("x", [0, 100], may_be_log=True).log


def test_equal_values_still_have_an_axis_with_room():
    flat = axis("x", [5.0, 5.0])
    assert flat.low < 5 < flat.high


def test_text_of_a_drawing_is_escaped():
    drawing = Drawing(Axis("<x>", 0, 1), Axis("y", 0, 1))
    drawing.text(0, 0, "<script>")
    assert "<script>" not in drawing.svg('"><script>')


def test_the_frontier_leaves_out_what_another_point_equals_for_less():
    assert frontier([(1, 50), (2, 50), (3, 70), (4, 60), (3, 65)]) == [(1, 50), (3, 70)]


def test_an_undefined_figure_is_a_dash_with_its_reason_and_never_0():
    cell = figure(None, percent, "why not")
    assert (cell.text, cell.why) == ("–", "why not")
    assert figure(0.0, percent, "why not") == Cell("0.0 %")


def test_reasons_become_notes_with_letters_each_once():
    row = [Cell("a"), Cell("–", "one"), Cell("–", "two"), Cell("–", "one")]
    assert Table("t", [Heading("a")] * 4, [row]).notes == {"one": "a", "two": "b"}
    assert [letter(i) for i in (0, 25, 26, 27)] == ["a", "z", "aa", "ab"]


def test_figures_in_words():
    assert in_digits(1.234e15) == "1.23 × 10¹⁵"
    assert in_digits(5e-4) == "5.00 × 10⁻⁴"
    assert points_interval((-0.012, 0.03)) == "−1.2 to +3.0"
    assert listed(["a", "b", "c"]) == "a, b and c"
