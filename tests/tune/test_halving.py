"""Which trials go on."""

from heft.tune.halving import best_of, rounds_for, survivors
from heft.tune.trial import Outcome


def trials(*losses, accuracy=None):
    return [
        Outcome(str(n), "lora", {}, {}, loss, accuracy[n] if accuracy and loss is not None else None)
        for n, loss in enumerate(losses)
    ]


def test_the_best_one_in_three_goes_on():
    outcomes = trials(0.9, 0.2, 0.5, 0.8, 0.1, 0.7, 0.6, 0.3, 0.4)
    assert survivors("abcdefghi", outcomes, 3) == ["e", "b", "h"]
    assert survivors("ebh", [outcomes[4], outcomes[1], outcomes[7]], 3) == ["e"]


def test_what_diverged_never_goes_on_and_the_rest_does():
    assert survivors("abc", trials(None, 0.5, None), 1) == ["b"]
    assert survivors("abc", trials(None, None, None), 3) == []


def test_equal_losses_go_by_accuracy_then_by_order():
    assert survivors("abc", trials(0.5, 0.5, 0.5, accuracy=[0.1, 0.3, 0.3]), 3) == ["b"]
    assert survivors("abc", trials(0.5, 0.5, 0.5), 3) == ["a"]


def test_rounds_are_those_until_one_is_left():
    assert [rounds_for(count, 3) for count in (1, 2, 3, 4, 9, 10)] == [1, 2, 2, 3, 3, 4]


def test_the_best_has_the_lowest_loss_of_those_that_did_not_diverge():
    assert best_of(trials(0.5, None, 0.3)).key == "2"
    assert best_of(trials(None)) is None
