"""Batches of like length: by hand, and against every partition."""

import itertools

import torch
from hypothesis import given, settings, strategies

from heft.data.batching import batches_of_like_length, pass_tokens


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
