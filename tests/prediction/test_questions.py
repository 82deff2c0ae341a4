"""Which rows can be asked about, row by row, and what is said of the others."""

import pytest

import tiny
from heft.data.encode import Encoder
from heft.errors import HeftError
from heft.models.limits import BaseLimits
from heft.prediction.questions import questions_of
from heft.tasks.rows import Rows, RowsSettings

TASK = Rows(RowsSettings(train=[{"prompt": "Q", "completion": "A"}], max_new_tokens=4))
SHORT, LONG = {"prompt": "Short:"}, {"prompt": f"{'long ' * 9}:"}
LIMITS = BaseLimits(positions=30, learned=True)


def asked(*rows):
    places = [(f"r:{number}", row) for number, row in enumerate(rows)]
    return questions_of(places, TASK, Encoder.of(tiny.byte_tokenizer(), TASK.settings), LIMITS)


def test_a_row_that_the_model_has_no_positions_for_is_left_out_and_the_others_are_asked():
    found = asked(SHORT, LONG, SHORT)
    assert [each is not None for each in found.encoded] == [True, False, True]
    assert [place for place, _ in found.faults] == ["r:1"]
    assert "30" in found.faults[0][1]


def test_what_is_wrong_with_one_row_alone_is_said_of_it_and_what_is_wrong_with_all_of_them_of_all():
    assert [place for place, _ in asked(LONG).faults] == ["r:0"]
    with pytest.raises(HeftError, match="30"):
        asked(LONG, LONG)
