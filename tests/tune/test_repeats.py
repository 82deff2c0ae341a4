"""The best trials again, on other rows: which are repeated, and which recipe is taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heft.training.stage import split_validation
from heft.tune.halving import Contender
from heft.tune.repeats import chosen_of, finalists_of, is_other_length, mean_of, reserve_for, with_other_validation
from heft.tune.trial import Outcome


def trial(recipe, loss, seed=None, accuracy=None, seconds=10.0, steps=20):
    stages = {"coarse": {"rank": 1, "seed": seed}, "fine": {"rank": recipe, "steps": steps, "seed": seed}}
    rows = [] if loss is None else [loss - 0.5, loss + 0.5]
    return Outcome(f"{recipe}-{seed}", "reft", stages, {}, loss, accuracy, rows, seconds=seconds, steps=steps)


def finalists(left, *trials, before=0.0):
    had = [Contender(number, [each]) for number, each in enumerate(trials)]
    return [each.key for _, each in finalists_of(had, left, "seconds", before)]


def test_the_best_three_are_repeated_or_as_many_as_are_paid_for_but_not_one():
    trials = [trial(1, 0.4), trial(2, None), trial(3, 0.2), trial(4, 0.3), trial(5, 0.5)]
    assert finalists(30.0, *trials) == ["3-None", "4-None", "1-None"]
    assert finalists(28.0, *trials) == ["3-None", "4-None", "1-None"]  # nearly as many as that
    assert finalists(27.0, *trials) == ["3-None", "4-None"]
    assert finalists(18.0, *trials) == []
    assert finalists(-1.0, *trials) == []  # a piece took longer than was foreseen
    assert finalists(-1.0) == []
    assert finalists(30.0, trials[0], trials[1]) == []
    assert finalists(40.0, *trials, before=10.0) == finalists(30.0, *trials)  # the stage before them is repeated too
    assert finalists(33.0, *trials, before=10.0) == ["3-None", "4-None"]


def test_all_trials_of_a_candidate_may_be_among_them():
    candidate = Contender("c", [trial(1, 0.4), trial(2, 0.3)])
    found = finalists_of([candidate, Contender("d", [trial(3, 0.5)])], 99.0, "seconds")
    assert [(candidate, each.loss) for candidate, each in found] == [("c", 0.3), ("c", 0.4), ("d", 0.5)]


def test_a_third_is_kept_for_repeats_beside_what_the_stage_before_them_costs():
    assert reserve_for(90.0, 0.0) == pytest.approx(30.0)
    assert reserve_for(90.0, 30.0) == pytest.approx(30.0 + 20.0)
    assert reserve_for(90.0, 31.0) == 0.0  # no repeats, rather than a stage before them and little else
    assert reserve_for(0.0, 1.0) == reserve_for(0.0, 0.0) == 0.0


@given(st.integers(2, 60), st.floats(0.01, 0.5), st.integers(0, 2**31))
def test_repeats_have_other_validation_rows(count, share, seed):
    rows = list(range(count))
    trained, validation = split_validation(rows, share, seed)
    others_trained, others = split_validation(with_other_validation(rows, share, seed), share, seed)
    assert len(others) == len(validation)
    assert not set(others) & set(validation)
    assert sorted(others_trained + others) == sorted(trained + validation) == rows


def test_where_more_than_half_are_validation_rows_all_of_the_others_are_among_the_others():
    rows = list(range(10))
    trained, validation = split_validation(rows, 0.7, 3)
    _, others = split_validation(with_other_validation(rows, 0.7, 3), 0.7, 3)
    assert set(trained) < set(others)
    assert len(set(others)) == 7
    assert with_other_validation([5], 0.0, 3) == [5]


def test_other_validation_rows_are_drawn_from_all_of_those_that_were_trained_on():
    rows = list(range(100))
    _, others = split_validation(with_other_validation(rows, 0.2, 0), 0.2, 0)
    assert min(others) < 20  # a file may be in order of something
    assert max(others) > 80


def test_a_trial_and_its_repeat_are_one_recipe_with_means_over_them():
    found = mean_of([trial(1, 0.2, accuracy=0.8), trial(1, 0.6, seed=100, accuracy=0.7)])
    assert (found.key, found.loss, found.accuracy) == ("1-None", pytest.approx(0.4), pytest.approx(0.75))
    assert found.row_losses == pytest.approx([-0.3, 0.7, 0.1, 1.1])  # of its rows, then of the repeat's
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


def test_another_length_is_one_of_the_same_recipe_whatever_the_seeds():
    assert is_other_length(trial(1, 0.3, steps=10), trial(1, 0.2))
    assert is_other_length(trial(1, 0.3, steps=10, seed=100), trial(1, 0.2))
    assert not is_other_length(trial(2, 0.3, steps=10), trial(1, 0.2))
    assert not is_other_length(trial(1, 0.3, seed=100), trial(1, 0.2))


def test_where_every_repeated_one_diverged_the_best_of_the_others_is_taken():
    trials = [trial(1, 0.2), trial(2, 0.3), trial(3, 0.4), trial(1, None, seed=100), trial(2, None, seed=100)]
    assert chosen_of(trials).key == "3-None"
