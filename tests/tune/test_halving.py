"""Which trials go on."""

import pytest

from heft.tune.halving import Contender, best_of, going_on, rounds_for, survivors
from heft.tune.trial import Outcome


def trials(*losses, accuracy=None):
    return [
        Outcome(str(n), "lora", {}, {}, loss, accuracy[n] if accuracy and loss is not None else None)
        for n, loss in enumerate(losses)
    ]


def contender(name, *trials):
    """One that has had trials of so many steps with these losses."""
    had = [Outcome(f"{name}{steps}", "lora", {}, {}, loss, None, steps=steps) for steps, loss in trials]
    return Contender(name, had)


def names(contenders):
    return [each.candidate for each in contenders]


def test_the_best_one_in_three_goes_on():
    outcomes = trials(0.9, 0.2, 0.5, 0.8, 0.1, 0.7, 0.6, 0.3, 0.4)
    assert survivors("abcdefghi", outcomes, 3) == ["e", "b", "h"]
    assert survivors("ebh", [outcomes[4], outcomes[1], outcomes[7]], 1) == ["e"]


def test_what_diverged_never_goes_on_and_the_rest_does():
    assert survivors("abc", trials(None, 0.5, None), 3) == ["b"]
    assert survivors("abc", trials(None, None, None), 1) == []


def test_equal_losses_go_by_accuracy_then_by_order():
    assert survivors("abc", trials(0.5, 0.5, 0.5, accuracy=[0.1, 0.3, 0.3]), 1) == ["b"]
    assert survivors("abc", trials(0.5, 0.5, 0.5), 1) == ["a"]
    assert best_of(trials(0.5, 0.5, 0.5, accuracy=[0.1, 0.3, 0.3])).key == "1"
    assert best_of(trials(0.5, 0.5)).key == "0"


def test_rounds_are_those_until_one_is_left():
    assert [rounds_for(count, 3) for count in (1, 2, 3, 4, 9, 10)] == [1, 2, 2, 3, 3, 4]


def test_the_best_has_the_lowest_loss_of_those_that_did_not_diverge():
    assert best_of(trials(0.5, None, 0.3)).key == "2"
    assert best_of(trials(None)) is None


@pytest.mark.parametrize(
    ("trials", "steps"),
    [
        ((), 100),
        (((20, 0.5), (80, 0.4)), 100),  # longer may be better still
        (((20, 0.5), (100, 0.4)), 45),  # it cannot be longer
        (((20, 0.5), (300, 0.4)), 77),
        (((20, 0.5), (600, 0.4)), 0),  # 110 would be too many
        (((60, 0.5), (100, 0.4)), 100),  # and nothing between is far from both
        (((20, 0.4), (80, 0.5)), 40),
        (((20, 0.4), (80, None)), 40),  # it diverged
        (((20, 0.4), (90, 0.5), (42, 0.3)), 61),
        (((20, 0.4), (80, 0.5), (40, 0.3)), 40),  # as near as is looked
        (((20, 0.4), (80, 0.6), (40, 0.5)), 13),  # nothing was tried between 8 and 20, which are further apart
        (((20, 0.4), (80, 0.6), (50, 0.5), (13, 0.5)), 32),
        (((10, 0.5), (30, 0.45), (40, 0.3), (60, 0.4)), 40),  # of those that are shorter, the nearest counts
        (((8, 0.4), (80, 0.6)), 25),
        (((5, 0.4), (80, 0.6)), 20),
    ],
)
def test_what_was_better_for_less_has_a_length_near_that(trials, steps):
    assert contender("a", *trials).next_steps(least=8, most=100) == steps


def test_its_length_is_settled_once_those_around_it_are_near():
    assert not contender("a", (16, 0.4), (33, 0.5)).is_settled(least=8)
    assert contender("a", (16, 0.4), (32, 0.5)).is_settled(least=8)
    assert not contender("a", (20, 0.4), (32, 0.5)).is_settled(least=8)  # as 9 or 10 steps may be better
    assert contender("a", (20, 0.4), (32, 0.5), (13, 0.5)).is_settled(least=8)
    assert not contender("a", (20, 0.5), (30, 0.4)).is_settled(least=8)  # nothing longer was tried
    assert going_on([contender("a", (16, 0.4), (30, 0.5))], 3, least=8) == []


def test_who_goes_on_is_said_by_the_best_that_each_has_had():
    tried = [
        contender("a", (20, 0.50), (80, 0.45)),
        contender("b", (20, 0.30), (80, 0.70)),
        contender("c", (20, 0.40), (80, 0.35)),
    ]
    assert names(going_on(tried, 3, least=8)) == ["b"]
    assert names(going_on(tried, 2, least=8)) == ["b", "c"]


def test_others_compete_for_the_places_of_a_round():
    tried = [contender(name, (20, loss)) for name, loss in zip("abc", (0.5, 0.3, 0.4), strict=True)]
    better, worse = contender("d", (20, 0.2)), contender("e", (20, 0.6))
    assert names(going_on(tried, 3, least=8, beside=[better, worse])) == ["d"]
    assert names(going_on(tried, 3, least=8, beside=[worse])) == ["b"]


def test_a_round_that_was_too_long_for_all_ends_none_but_what_always_diverged():
    tried = [
        contender("a", (20, 0.5), (80, 0.6)),
        contender("b", (20, 0.3), (80, None)),
        contender("c", (20, None), (80, None)),
        contender("d", (20, 0.4), (80, 0.9)),
    ]
    assert names(going_on(tried, 4, least=8)) == ["b", "d", "a"]
    assert names(going_on([contender("c", (20, None))], 3, least=8)) == []
