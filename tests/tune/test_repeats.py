"""The best trials again with another seed: which are repeated, and which recipe is taken."""

import pytest

from heft.tune.halving import Contender
from heft.tune.repeats import chosen_of, finalists_of, mean_of
from heft.tune.trial import Outcome


def trial(recipe, loss, seed=None, accuracy=None, seconds=10.0):
    stages = {"coarse": {"rank": 1, "seed": None}, "fine": {"rank": recipe, "seed": seed}}
    rows = [] if loss is None else [loss - 0.5, loss + 0.5]
    return Outcome(f"{recipe}-{seed}", "reft", stages, {}, loss, accuracy, rows, seconds=seconds)


def finalists(left, *trials):
    had = [Contender(number, [each]) for number, each in enumerate(trials)]
    return [each.key for _, each in finalists_of(had, left, "seconds")]


def test_the_best_three_are_repeated_or_as_many_as_are_paid_for_but_not_one():
    trials = [trial(1, 0.4), trial(2, None), trial(3, 0.2), trial(4, 0.3), trial(5, 0.5)]
    assert finalists(30.0, *trials) == ["3-None", "4-None", "1-None"]
    assert finalists(28.0, *trials) == ["3-None", "4-None", "1-None"]  # nearly as many as that
    assert finalists(27.0, *trials) == ["3-None", "4-None"]
    assert finalists(18.0, *trials) == []
    assert finalists(-1.0, *trials) == []  # a piece took longer than was foreseen
    assert finalists(-1.0) == []
    assert finalists(30.0, trials[0], trials[1]) == []


def test_all_trials_of_a_candidate_may_be_among_them():
    candidate = Contender("c", [trial(1, 0.4), trial(2, 0.3)])
    found = finalists_of([candidate, Contender("d", [trial(3, 0.5)])], 99.0, "seconds")
    assert [(candidate, each.loss) for candidate, each in found] == [("c", 0.3), ("c", 0.4), ("d", 0.5)]


def test_two_seeds_are_one_recipe_with_means_over_them():
    found = mean_of([trial(1, 0.2, accuracy=0.8), trial(1, 0.6, seed=100, accuracy=0.7)])
    assert (found.key, found.loss, found.accuracy) == ("1-None", pytest.approx(0.4), pytest.approx(0.75))
    assert found.row_losses == pytest.approx([-0.1, 0.9])
    assert found.seed_losses == [0.2, 0.6]
    assert mean_of([trial(1, 0.2, accuracy=0.8), trial(1, 0.6, seed=100)]).accuracy is None
    assert mean_of([trial(1, 0.2), trial(1, None, seed=100)]).diverged


def test_the_lowest_mean_is_taken_and_what_was_not_repeated_is_not():
    lucky, steady, third = (trial(n, loss) for n, loss in ((1, 0.20), (2, 0.25), (3, 0.30)))
    again = [trial(1, 0.60, seed=100), trial(2, 0.27, seed=100)]
    found = chosen_of([lucky, steady, third, *again])
    assert (found.key, found.loss) == ("2-None", pytest.approx(0.26))
    assert chosen_of([lucky, steady, third]).key == "1-None"
    assert chosen_of([]) is None


def test_where_every_repeated_one_diverged_the_best_of_the_others_is_taken():
    trials = [trial(1, 0.2), trial(2, 0.3), trial(3, 0.4), trial(1, None, seed=100), trial(2, None, seed=100)]
    assert chosen_of(trials).key == "3-None"
