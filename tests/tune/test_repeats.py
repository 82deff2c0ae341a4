"""The best trials again, on other rows: which are repeated, on which rows, and which recipe is taken."""

import pytest

from heft.tune.halving import Contender
from heft.tune.repeats import (
    SEEDS_APART,
    Finalist,
    best_finalists,
    chosen_of,
    finalists_of,
    is_other_length,
    mean_of,
    number_of,
    paid_for,
    reserve_for,
    seed_of,
)
from heft.tune.trial import Outcome


def trial(recipe, loss, seed=None, accuracy=None, seconds=10.0, steps=20):
    stages = {"coarse": {"rank": 1, "seed": seed}, "fine": {"rank": recipe, "steps": steps, "seed": seed}}
    rows = [] if loss is None else [loss - 0.5, loss + 0.5]
    return Outcome(f"{recipe}-{seed}", "reft", stages, {}, loss, accuracy, rows, seconds=seconds, steps=steps)


def finalists(*trials):
    return finalists_of(Contender(number, [each]) for number, each in enumerate(trials))


def keys(found):
    return [each.trainings[0].key for each in found]


def test_the_best_three_are_repeated():
    trials = [trial(1, 0.4), trial(2, None), trial(3, 0.2), trial(4, 0.3), trial(5, 0.5)]
    assert keys(finalists(*trials)) == ["3-None", "4-None", "1-None"]
    assert keys(finalists(*trials[:2])) == ["1-None"]
    assert finalists() == []


def test_all_trials_of_a_candidate_may_be_among_them():
    candidate = Contender("c", [trial(1, 0.4), trial(2, 0.3)])
    found = finalists_of([candidate, Contender("d", [trial(3, 0.5)])])
    assert [(each.candidate, each.trainings[0].loss) for each in found] == [("c", 0.3), ("c", 0.4), ("d", 0.5)]


def test_the_best_two_of_them_go_on_by_their_means_without_what_diverged():
    lucky, steady, third, lost = (trial(n, loss) for n, loss in ((1, 0.20), (2, 0.25), (3, 0.30), (4, 0.1)))
    again = {1: 0.60, 2: 0.27, 3: 0.29, 4: None}
    had = [Finalist(n, [each, trial(n, again[n], 100)]) for n, each in enumerate((lucky, steady, third, lost), start=1)]
    assert keys(best_finalists(had)) == ["2-None", "3-None"]
    assert keys(best_finalists([had[0], had[3]])) == ["1-None"]


def test_as_many_are_repeated_as_are_paid_for_but_not_one():
    three = finalists(trial(1, 0.4), trial(3, 0.2), trial(4, 0.3))
    assert paid_for(three, 30.0, "seconds") == 3
    assert paid_for(three, 28.0, "seconds") == 3  # nearly as much as that
    assert paid_for(three, 27.0, "seconds") == 2
    assert paid_for(three, 18.0, "seconds") == 0
    assert paid_for(three, -1.0, "seconds") == 0  # a piece took longer than was foreseen
    assert paid_for(three[:1], 30.0, "seconds") == paid_for([], 30.0, "seconds") == 0
    assert paid_for(three, 40.0, "seconds", before=10.0) == 3  # the stage before them is repeated too
    assert paid_for(three, 33.0, "seconds", before=10.0) == 2


def test_a_third_is_kept_for_repeats_beside_what_the_stage_before_them_costs():
    assert reserve_for(90.0, 0.0) == pytest.approx(30.0)
    assert reserve_for(90.0, 30.0) == pytest.approx(30.0 + 20.0)
    assert reserve_for(90.0, 31.0) == 0.0  # no repeats, rather than a stage before them and little else
    assert reserve_for(0.0, 1.0) == reserve_for(0.0, 0.0) == 0.0


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_a_repeat_is_known_by_its_seed(seed):
    assert [number_of(seed_of(number, seed), seed) for number in (1, 2, 4)] == [1, 2, 4]
    assert number_of(None, seed) == 0
    assert all(0 <= seed_of(number, seed) < 2**32 for number in (1, 2, 4))
    assert seed_of(2, 5) == 5 + 2 * SEEDS_APART


def test_a_trial_and_its_repeats_are_one_recipe_with_means_over_them():
    found = mean_of([trial(1, 0.2, accuracy=0.8), trial(1, 0.6, seed=100, accuracy=0.7)])
    assert (found.key, found.loss, found.accuracy) == ("1-None", pytest.approx(0.4), pytest.approx(0.75))
    assert found.row_losses == pytest.approx([-0.3, 0.7, 0.1, 1.1])  # of its rows, then of the repeat's
    assert found.seed_losses == [0.2, 0.6]
    assert mean_of([trial(1, 0.2), trial(1, 0.6, seed=100), trial(1, 0.1, seed=200)]).loss == pytest.approx(0.3)
    assert found.seed_accuracies == [0.8, 0.7]
    assert mean_of([trial(1, 0.2), trial(1, 0.6, seed=100)]).accuracy is None
    assert mean_of([trial(1, 0.2), trial(1, None, seed=100)]).diverged
    assert mean_of([found]) is found


def test_the_lowest_mean_is_taken_and_what_was_not_repeated_is_not():
    lucky, steady, third = (trial(n, loss) for n, loss in ((1, 0.20), (2, 0.25), (3, 0.30)))
    again = [trial(1, 0.60, seed=100), trial(2, 0.27, seed=100)]
    found = chosen_of([lucky, steady, third, *again])
    assert (found.key, found.loss) == ("2-None", pytest.approx(0.26))
    assert chosen_of([lucky, steady, third]).key == "1-None"
    assert chosen_of([]) is None


def test_of_those_that_were_repeated_most_often_one_is_taken():
    three = [
        trial(n, loss, seed)
        for seed, losses in ((None, (0.2, 0.3, 0.4)), (100, (0.4, 0.2, 0.1)))
        for n, loss in enumerate(losses)
    ]
    assert chosen_of(three).key == "1-None"  # 0.30, 0.25, 0.25: the first of two
    again = [trial(1, 0.5, 200), trial(2, 0.4, 200)]
    assert chosen_of([*three, *again]).key == "2-None"
    assert chosen_of([*three, trial(0, 0.5, 200), trial(1, 0.5, 200)]).key == "1-None"
    assert chosen_of([*three, trial(1, None, 200), trial(2, None, 200)]).key == "0-None"


def test_another_length_is_one_of_the_same_recipe_whatever_the_seeds():
    assert is_other_length(trial(1, 0.3, steps=10), trial(1, 0.2))
    assert is_other_length(trial(1, 0.3, steps=10, seed=100), trial(1, 0.2))
    assert not is_other_length(trial(2, 0.3, steps=10), trial(1, 0.2))
    assert not is_other_length(trial(1, 0.3, seed=100), trial(1, 0.2))


def test_where_every_repeated_one_diverged_the_best_of_the_others_is_taken():
    trials = [trial(1, 0.2), trial(2, 0.3), trial(3, 0.4), trial(1, None, seed=100), trial(2, None, seed=100)]
    assert chosen_of(trials).key == "3-None"
