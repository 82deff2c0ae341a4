"""Batches of like length: by hand, and against every partition."""

import itertools

import torch
from hypothesis import given, settings, strategies

from heft.data.batching import batches_of_like_length, packs, pass_tokens, select_rows


def test_batches_hold_every_row_once_longest_first():
    assert batches_of_like_length([3, 9, 1, 7, 5], 2) == [[1, 3], [4, 0], [2]]


def test_a_row_that_is_longer_than_the_rest_runs_alone():
    assert batches_of_like_length([30, 500, 20], 3, tokens_of_a_pass=50) == [[1], [0, 2]]
    assert batches_of_like_length([30] * 16, 16, tokens_of_a_pass=50) == [list(range(16))]
    assert batches_of_like_length([], 4, tokens_of_a_pass=50) == []


@settings(deadline=None)
@given(strategies.lists(strategies.integers(1, 400), max_size=5), strategies.integers(1, 5))
def test_no_partition_costs_less(lengths, batch_size):
    def cost(partition):
        return sum(50 + len(batch) * max(lengths[row] for row in batch) for batch in partition)

    chosen = batches_of_like_length(lengths, batch_size, tokens_of_a_pass=50)
    assert sorted(itertools.chain(*chosen)) == list(range(len(lengths)))
    assert all(len(batch) <= batch_size for batch in chosen)
    labels = itertools.product(range(len(lengths)), repeat=len(lengths))
    every = ([[r for r, n in enumerate(label) if n == m] for m in set(label)] for label in labels)
    allowed = [partition for partition in every if all(len(batch) <= batch_size for batch in partition)]
    assert cost(chosen) <= min(map(cost, allowed))


def test_an_accelerator_gets_whole_batches():
    assert pass_tokens(torch.device("cuda"), trains=True) is None
    assert pass_tokens(torch.device("cpu"), trains=True) > pass_tokens(torch.device("cpu"), trains=False) > 0


def test_batches_of_equal_lengths_hold_rows_of_one_length_each():
    assert batches_of_like_length([3, 5, 3, 5, 5, 4], 2, equal=True) == [[1, 3], [4], [5], [0, 2]]


def test_items_are_packed_in_order_up_to_the_limit_and_a_larger_one_alone():
    packed = packs([3, 4, 1, 5, 2, 12, 7], lambda item: item, 7)
    assert packed == [[3, 4], [1, 5], [2], [12], [7]]
    assert packs([], lambda item: item, 7) == []


def test_rows_of_a_batch_are_taken_without_the_columns_in_which_all_are_padded():
    ids, mask = (
        torch.tensor([[0, 0, 7, 8], [1, 2, 3, 4], [0, 5, 6, 9]]),
        torch.tensor([[0, 0, 1, 1], [1] * 4, [0, 1, 1, 1]]),
    )
    taken = select_rows({"input_ids": ids, "attention_mask": mask, "row_ids": torch.tensor([10, 11, 12])}, [0, 2])
    assert {key: value.tolist() for key, value in taken.items()} == {
        "input_ids": [[0, 7, 8], [5, 6, 9]],
        "attention_mask": [[0, 1, 1], [1, 1, 1]],
        "row_ids": [10, 12],
    }
