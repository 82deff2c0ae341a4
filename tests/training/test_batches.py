"""The order of rows, and how a batch is shared out between processes."""

import itertools

import pytest
import torch

from heft.data.encode import IGNORED, EncodedExample
from heft.recipe.recipe import LoraStage
from heft.tasks.example import Example
from heft.training.batches import TrainingData, accumulation_steps, epoch_of, is_validation_due

LENGTHS = [3, 9, 4, 4, 7, 12, 5, 8, 6, 3, 10, 11, 5, 4, 9, 7, 6, 8, 3]


def stage(**settings):
    return LoraStage(method="lora", **settings)


def data(lengths, validation=()):
    """Rows of so many tokens, each answered by the token of its number."""
    example = Example(id="x", prompt="x", choices=(" a", " b"), gold=0, answer=" a")
    rows = [EncodedExample(example, (99,) * (n - 1), (), (row,), 0) for row, n in enumerate([*lengths, *validation])]
    return TrainingData(rows[: len(lengths)], rows[len(lengths) :], pad_id=0)


@pytest.mark.parametrize(("count", "processes"), [(6, 2), (5, 2), (7, 3), (1, 1)])
def test_every_row_of_a_batch_goes_to_one_process(count, processes):
    rows = range(100, 100 + count)
    shares = [data(range(3, 203)).share(rows, process, processes) for process in range(processes)]
    assert sorted(row for share in shares for row in share["row_ids"].tolist()) == list(rows)
    for share in shares:
        assert share["row_ids"].tolist() == share["input_ids"][:, -1].tolist() == share["labels"][:, -1].tolist()
    assert max(len(s["row_ids"]) for s in shares) - min(len(s["row_ids"]) for s in shares) <= 1


def test_a_process_that_gets_no_row_gets_one_that_counts_for_nothing():
    share = data([3, 4]).share([0], 1, 2)
    assert torch.equal(share["labels"], torch.full((1, 3), IGNORED))
    assert share["row_ids"].tolist() == [0]


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "expected"), [(8, None, 1), (8, 4, 2), (6, 2, 3), (7, 7, 1), (6, 3, 2)]
)
def test_a_batch_is_split_into_the_fewest_equal_micro_batches(batch_size, micro_batch_size, expected):
    assert accumulation_steps(stage(batch_size=batch_size, micro_batch_size=micro_batch_size)) == expected


def test_with_more_processes_than_rows_a_step_is_one_micro_batch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert accumulation_steps(stage(batch_size=8, micro_batch_size=2)) == 2
    assert accumulation_steps(stage(batch_size=2)) == 1


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 4}, {"batch_size": 6, "micro_batch_size": 2}, {"batch_size": 32, "micro_batch_size": 16}],
)
def test_an_epoch_has_every_row_once_in_steps_of_the_batch_size(settings):
    steps = list(data(LENGTHS).epoch(stage(**settings)))
    assert sorted(itertools.chain.from_iterable(itertools.chain.from_iterable(steps))) == list(range(len(LENGTHS)))
    sizes = [sum(map(len, step)) for step in steps]
    assert sizes == [settings["batch_size"]] * (len(LENGTHS) // settings["batch_size"]) + [
        len(LENGTHS) % settings["batch_size"]
    ]
    assert max(len(rows) for step in steps for rows in step) == settings.get("micro_batch_size", 4)


@pytest.mark.parametrize(("rows", "batch_size"), [(256, 4), (2000, 8), (403, 4)])
def test_rows_of_a_batch_are_of_similar_length(rows, batch_size):
    """Random batches of these rows have 58 % of padding and more."""
    torch.manual_seed(1)
    lengths = torch.randint(3, 200, (rows,)).tolist()
    batches = [row for [row] in data(lengths).epoch(stage(batch_size=batch_size))]
    whole = [batch for batch in batches if len(batch) == batch_size]
    padded = sum(batch_size * max(lengths[row] for row in batch) for batch in whole)
    real = sum(lengths[row] for batch in whole for row in batch)
    assert padded / real < 1.1


def test_no_place_of_an_epoch_has_longer_rows_than_another():
    """In transformers' `group_by_length` batches of these rows have 29 to 32 tokens and 12 to 13, in turn."""
    torch.manual_seed(2)
    lengths = list(range(3, 42))
    places = [[] for _ in range(10)]
    for _ in range(1000):
        for place, [batch] in zip(places, data(lengths).epoch(stage(batch_size=4)), strict=True):
            place.append(sum(lengths[row] for row in batch) / len(batch))
    means = [sum(place) / len(place) for place in places]
    assert means == [pytest.approx(22, abs=1.2)] * 10


def test_which_rows_share_a_batch_differs_from_epoch_to_epoch_and_repeats_with_a_seed():
    def two_epochs(seed):
        torch.manual_seed(seed)
        return [list(data(LENGTHS).epoch(stage(batch_size=4))) for _ in range(2)]

    first, second = two_epochs(5)
    assert first != second
    assert two_epochs(5) == [first, second]
    assert two_epochs(6)[0] != first


def test_all_random_numbers_of_an_epoch_are_drawn_before_its_first_step():
    """A run that is resumed in the middle of an epoch draws its order again, and then takes up its own numbers."""
    torch.manual_seed(5)
    epoch = data(LENGTHS).epoch(stage(batch_size=4))
    next(epoch)
    state = torch.get_rng_state()
    list(epoch)
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_draws_no_random_number():
    state = torch.get_rng_state()
    data(LENGTHS, validation=LENGTHS).validation(stage(batch_size=4))
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_rows_come_behind_the_others_and_in_the_same_batches():
    rows = data(LENGTHS[:5], validation=LENGTHS[5:9])
    batches = rows.validation(stage(batch_size=3))
    assert sorted(itertools.chain.from_iterable(batches)) == [5, 6, 7, 8]
    assert [rows.lengths[row] for row in batches[0]] == sorted(LENGTHS[5:9], reverse=True)[:3]
    assert rows.answer_tokens([0, 7]) == 2


def test_epochs_are_counted_in_micro_batches():
    settings = stage(batch_size=6, micro_batch_size=2)
    assert [epoch_of(step, 19, settings) for step in (1, 3, 4, 5, 8)] == [0.3, 0.9, 1.0, 1.3, 2.0]


@pytest.mark.parametrize(("every", "due"), [(3, [3, 6, 7]), (None, [4, 7]), (7, [7])])
def test_the_validation_loss_is_due_every_so_many_steps_or_once_an_epoch_and_at_the_end(every, due):
    settings = stage(batch_size=6, evaluate_every=every, holdout=0.1)  # 19 rows are 4 steps
    assert [step for step in range(1, 8) if is_validation_due(step, 7, 19, settings)] == due
