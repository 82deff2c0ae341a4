import pytest

from heft.edits.positions import Positions, parse_positions
from heft.edits.settings import ReftSettings
from heft.errors import HeftError


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        ("all", Positions(all_tokens=True)),
        ("f1", Positions(first=1)),
        ("l10", Positions(last=10)),
        ("f7+l7", Positions(first=7, last=7)),
        ("f12+l3", Positions(first=12, last=3)),
        ("l4+", Positions(last=4, onward=True)),
        ("f2+l4+", Positions(first=2, last=4, onward=True)),
    ],
)
def test_positions_are_read_as_written(text, positions):
    assert parse_positions(text) == positions


@pytest.mark.parametrize(
    "text", ["", "f0", "l0", "f01", "f", "7", "l7+f7", "f7l7", "f7+", "+l7", "f7 + l7", "ALL", "f7+l0", "l4++", "all+"]
)
def test_positions_that_are_not_of_the_six_forms_are_refused_with_what_was_given(text):
    with pytest.raises(ValueError, match="positions must be") as error:
        parse_positions(text)
    assert repr(text) in str(error.value)


def test_the_shortest_prompt_is_the_shortest_prompt_that_holds_every_position():
    assert [parse_positions(text).shortest_prompt() for text in ("all", "f3", "l4", "f3+l4")] == [0, 3, 4, 7]


@pytest.mark.parametrize(
    "combination",
    [
        {"tied": False, "positions": "l4"},
        {"tied": False, "positions": "f4"},
        {"tied": False, "positions": "all"},
        {"activation": "relu", "intervention": "consreft"},
        {"activation": "relu", "intervention": "lobireft"},
    ],
)
def test_an_option_that_would_change_nothing_is_refused(combination):
    with pytest.raises(HeftError):
        ReftSettings(**combination)


@pytest.mark.parametrize(
    "setting",
    [
        {"rank": 0},
        {"layers": []},
        {"layers": [1, 1]},
        {"layers": "last"},
        {"site": "head"},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"intervention": "lora"},
        {"activation": "softmax"},
        {"ranks": 4},
    ],
)
def test_a_value_out_of_range_and_an_unknown_key_are_refused(setting):
    with pytest.raises(HeftError):
        ReftSettings(**setting)


def test_every_setting_is_documented():
    assert all(field.description for field in ReftSettings.model_fields.values())
