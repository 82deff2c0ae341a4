"""How a batch is shared out between processes."""

import pytest
import torch

from heft.data.encode import IGNORED, EncodedExample
from heft.tasks.base import Example
from heft.training.trainer import Rows, collate


def rows(count):
    """Rows of 2, 3, … prompt tokens, each answered by the token of its number."""
    example = Example(id="x", prompt="x", choices=(" a", " b"), gold=0, answer=" a")
    return Rows([EncodedExample(example, (9,) * (n + 2), (), (n,), 0) for n in range(count)], first_id=100)


@pytest.mark.parametrize(("count", "processes"), [(6, 2), (5, 2), (7, 3), (1, 1)])
def test_every_row_of_a_batch_goes_to_one_process(count, processes):
    batch = list(rows(count))
    parts = [collate(batch, 0, process, processes) for process in range(processes)]
    assert sorted(row for part in parts for row in part["row_ids"].tolist()) == [100 + n for n in range(count)]
    for part in parts:
        assert (part["row_ids"] - 100).tolist() == part["input_ids"][:, -1].tolist() == part["labels"][:, -1].tolist()
    assert max(len(p["row_ids"]) for p in parts) - min(len(p["row_ids"]) for p in parts) <= 1


def test_a_process_that_gets_no_row_gets_one_that_counts_for_nothing():
    part = collate(list(rows(1)), 0, 1, 2)
    assert torch.equal(part["labels"], torch.full((1, 3), IGNORED))
    assert part["row_ids"].tolist() == [100]
