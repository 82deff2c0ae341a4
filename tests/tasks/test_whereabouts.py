"""Whereabouts, the task that heft makes itself."""

from collections import Counter

import pytest

from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.whereabouts import PLACES, Whereabouts, WhereaboutsSettings

ROW = {"moves": [["Anna", "garden"], ["Ben", "kitchen"], ["Anna", "office"], ["Ben", "garden"]], "asked": "Anna"}


def made_rows(split: str = "train", **options) -> list[dict]:
    return [row for _, row in Whereabouts(WhereaboutsSettings(**options)).rows(split)]


def test_prompt_tells_the_moves_and_asks_where_the_person_is():
    example = Whereabouts(WhereaboutsSettings()).example(ROW)
    assert example.prompt == (
        "Anna went to the garden. Ben went to the kitchen. Anna went to the office. Ben went to the garden. "
        "Where is Anna now? Anna is in the"
    )
    assert example.choices == (" kitchen", " garden", " office", " school")
    assert (example.gold, example.answer) == (2, " office")


def test_rows_have_the_size_asked_for_and_differ_from_each_other():
    for split, size in (("train", 300), ("eval", 100)):
        examples = load_examples(WhereaboutsSettings(train_size=300, eval_size=100), split)
        assert len({example.prompt for example in examples}) == len(examples) == size


def test_eval_rows_are_never_train_rows_whatever_the_seeds():
    train = {
        example.prompt
        for seed in range(3)
        for example in load_examples(
            WhereaboutsSettings(train_size=400, sample_seed=seed, people=2, moves=4, places=3), "train"
        )
    }
    evaluation = {
        example.prompt
        for seed in range(3)
        for example in load_examples(
            WhereaboutsSettings(eval_size=100, sample_seed=seed, people=2, moves=4, places=3), "eval"
        )
    }
    assert train
    assert evaluation
    assert not train & evaluation


def test_a_size_changes_neither_the_rows_before_nor_the_other_split():
    assert made_rows(train_size=50) == made_rows(train_size=200)[:50]
    assert made_rows("eval", train_size=50, eval_size=20) == made_rows("eval", train_size=99, eval_size=20)


def test_rows_follow_from_the_seed():
    assert made_rows(train_size=20) == made_rows(train_size=20)
    assert made_rows(train_size=20) != made_rows(train_size=20, sample_seed=1)


def test_the_first_row_of_seed_0_is_the_same_on_every_machine_and_version():
    example = load_examples(WhereaboutsSettings(eval_size=1), "eval")[0]
    assert example.id == "847cbc66044f7b86"
    assert example.prompt.startswith("Carl went to the office. Anna went to the school. Anna went to the kitchen. ")


def test_the_person_asked_about_has_moved_and_nobody_moves_to_where_they_are():
    for row in made_rows(train_size=500, people=4, moves=6):
        at = {}
        for person, place in row["moves"]:
            assert at.get(person) != place
            at[person] = place
        assert row["asked"] in at
        assert len(at) == 4


def test_settings_bound_people_moves_and_places():
    rows = made_rows(train_size=300, people=5, moves=3, places=6)
    assert {len(row["moves"]) for row in rows} == {3}
    assert len({person for row in rows for person, _ in row["moves"]}) == 5
    assert {place for row in rows for _, place in row["moves"]} == set(PLACES[:6])


def test_places_are_gold_about_equally_often():
    counts = Counter(example.gold for example in load_examples(WhereaboutsSettings(train_size=4000), "train"))
    assert set(counts) == {0, 1, 2, 3}
    assert all(0.22 < count / 4000 < 0.28 for count in counts.values())


@pytest.mark.parametrize(
    ("name", "shortcut"),
    [
        ("last sentence", lambda row: row["moves"][-1][1]),
        ("first sentence", lambda row: row["moves"][0][1]),
        ("where the person went first", lambda row: dict(reversed(row["moves"]))[row["asked"]]),
        ("most frequent place", lambda row: Counter(place for _, place in row["moves"]).most_common(1)[0][0]),
        ("last sentence but one", lambda row: row["moves"][-2][1]),
    ],
)
def test_no_shortcut_is_right_in_more_than_55_percent_of_rows(name, shortcut):
    rows = made_rows(train_size=5000)
    right = sum(shortcut(row) == dict(row["moves"])[row["asked"]] for row in rows)
    assert right / len(rows) < 0.55, name


def test_too_few_different_rows_is_an_error_with_what_to_change():
    with pytest.raises(HeftError, match=r"only \d+ of 2,000 different train rows .* people: 2, moves: 1, places: 2"):
        load_examples(WhereaboutsSettings(people=2, moves=1, places=2), "train")


def test_a_limit_keeps_some_of_the_rows_made():
    whole = load_examples(WhereaboutsSettings(eval_size=50), "eval")
    kept = load_examples(WhereaboutsSettings(eval_size=50, eval_limit=5), "eval")
    assert len(kept) == 5
    assert set(kept) <= set(whole)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"moves": [["Anna", "kitchen"]], "asked": "Ben"}, "asked must be a person who moves; got 'Ben'"),
        ({"moves": [["Anna", "moon"]], "asked": "Anna"}, "places must be of kitchen, garden, .*; got 'moon'"),
        ({"moves": ["Anna"], "asked": "Anna"}, "moves must be pairs, a person and a place each; got 'Anna'"),
        ({"moves": [], "asked": "Anna"}, "asked must be a person who moves"),
    ],
)
def test_a_row_of_a_persons_own_that_cannot_be_asked_is_refused_in_words(row, fault):
    with pytest.raises(HeftError, match=fault):
        Whereabouts(WhereaboutsSettings()).question(row)
