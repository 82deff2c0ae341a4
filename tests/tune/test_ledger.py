"""trials.jsonl, as a search that was ended has left it."""

import pytest

from heft.tune.ledger import Ledger


@pytest.mark.parametrize("cut", [1, 5], ids=["within its end alone", "within its text"])
def test_a_last_line_that_was_cut_off_is_dropped_and_what_follows_is_read_again(tmp_path, cut):
    path = tmp_path / "trials.jsonl"
    ledger = Ledger(path)
    ledger.lose("lora", 2.0)
    ledger.decided("first", lambda: 3)
    path.write_bytes(path.read_bytes()[:-cut])
    goes_on = Ledger.read(path)
    assert (goes_on.lost, goes_on.decisions) == ({"lora": 2.0}, {})
    assert goes_on.decided("first", lambda: 4) == 4
    goes_on.lose("lora", 1.0)
    again = Ledger.read(path)
    assert (again.lost, again.decisions) == ({"lora": 3.0}, {"first": 4})
