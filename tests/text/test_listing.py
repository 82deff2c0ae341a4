from heft.text.listing import first_of


def test_a_list_that_is_short_enough_is_shown_whole():
    assert first_of(["a", "b"], 2) == "a, b"


def test_a_longer_list_ends_with_how_many_are_left_out():
    assert first_of(map(str, range(2000)), 2, "; ") == "0; 1 and 1,998 more"
