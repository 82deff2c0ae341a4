"""Which training rows become validation rows."""

from itertools import islice

from hypothesis import assume, given
from hypothesis import strategies as st

from heft.data.encode import EncodedExample
from heft.data.validation import order_for, split_validation, validation_sets
from heft.tasks.example import choice_example, generation_example
from heft.tasks.rows.chats import chat_examples

SHARES, SEEDS = st.floats(0.01, 0.9), st.integers(0, 2**31)
GROUPS = st.lists(st.integers(0, 8), min_size=2, max_size=40)


def encoded(example):
    return EncodedExample(example, (1,), (), (2,), 0)


def rows_of(belong_to):
    return [encoded(generation_example("t", f"prompt {text}", f" {n}", f"{n}")) for n, text in enumerate(belong_to)]


def numbers(rows):
    return [int(row.example.target) for row in rows]


def test_validation_rows_are_chosen_by_their_seed_and_never_trained_on():
    rows = rows_of(range(40))
    train, validation = split_validation(rows, 0.25, seed=3)
    assert len(validation) == 10
    assert sorted(numbers(train + validation)) == list(range(40))
    assert split_validation(rows, 0.25, seed=4)[1] != validation
    assert split_validation(rows, 0.0, seed=0) == (rows, [])


@given(GROUPS, SHARES, SEEDS)
def test_rows_that_belong_to_the_same_are_never_parted(belong_to, share, seed):
    rows, wanted = rows_of(belong_to), max(1, round(share * len(belong_to)))
    assume(wanted < len(rows))  # else it is refused (heft.recipe.training.require_trained_rows)
    train, validation = (numbers(part) for part in split_validation(rows, share, seed))
    assert sorted(train + validation) == list(range(len(rows)))
    assert train
    assert validation
    if len(set(belong_to)) > 1:
        assert not {belong_to[row] for row in train} & {belong_to[row] for row in validation}
    smallest = min(map(belong_to.count, belong_to)) if len(set(belong_to)) > 1 else 1
    assert len(validation) <= max(wanted, smallest)
    unused = wanted - len(validation)
    assert all(belong_to.count(text) > unused for text in {belong_to[row] for row in train}) or smallest > wanted


def test_as_many_as_the_share_says_where_single_rows_fill_it_up():
    belong_to = [0] * 7 + [1] * 3 + list(range(2, 92))
    for seed in range(20):
        assert len(split_validation(rows_of(belong_to), 0.2, seed)[1]) == 20


def test_the_same_question_and_turns_of_one_chat_belong_together_and_one_question_with_other_options_does_not():
    def choice(question, options, gold):
        return encoded(choice_example("t", question, options, gold)).belongs_to

    assert choice("Is it  hot?", ["yes", "no"], 0) == choice("Is it hot?", ["no", "yes"], 0)
    assert choice("Is it hot?", ["yes", "no"], 0) != choice("Is it hot?", ["yes", "maybe"], 0)
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    first, second = (encoded(each).belongs_to for each in chat_examples("t", turns, None, "all"))
    assert first == second
    passages = [choice_example("t", f"question {n}", ["a", "b"], 0, group=f"passage {n // 2}") for n in range(4)]
    keys = [encoded(each).belongs_to for each in passages]
    assert keys[0] == keys[1] != keys[2] == keys[3]


@given(st.integers(2, 60), SHARES, SEEDS)
def test_each_set_has_the_next_rows_until_all_have_been_in_one(count, share, seed):
    sets = list(islice(validation_sets(range(count), share, seed), 5))
    seen = []
    for chosen in sets:
        assert len(chosen) == len(sets[0])
        seen += chosen
        assert len(set(seen)) == min(count, len(seen))  # none twice before all once
        assert max(map(seen.count, range(count))) - min(map(seen.count, range(count))) <= 1


@given(GROUPS, SHARES, SEEDS)
def test_in_the_order_of_a_set_its_rows_are_the_validation_rows(belong_to, share, seed):
    rows = rows_of(belong_to)
    for number, chosen in enumerate(islice(validation_sets(belong_to, share, seed), 4)):
        order = order_for(number, belong_to, share, seed)
        assert sorted(order) == list(range(len(rows)))
        train, validation = split_validation([rows[row] for row in order], share, seed)
        assert sorted(numbers(validation)) == sorted(chosen)
        assert len(train) + len(validation) == len(rows)


def test_later_sets_are_drawn_from_all_rows_that_were_trained_on():
    _, others = islice(validation_sets(range(100), 0.2, 0), 2)
    assert min(others) < 20  # a file may be in order of something
    assert max(others) > 80
