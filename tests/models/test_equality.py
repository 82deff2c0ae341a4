"""A fast path is equal to the plain one within rounding, or the reason why it is not taken is said."""

import math

import pytest
import torch

from heft.models.equality import why_unequal

F32, BF16 = torch.float32, torch.bfloat16


@pytest.mark.parametrize(
    ("plain", "again", "fast", "dtype", "equal"),
    [
        ([10.0], [10.0], [10.0005], F32, True),
        ([10.0], [10.0], [10.002], F32, False),
        ([10.0], [10.0], [10.9], BF16, True),
        ([10.0], [10.0], [11.1], BF16, False),
        ([10.0], [10.001], [10.004], F32, True),  # other batches of the plain path differ by as much
        ([10.0], [13.0], [11.1], F32, False),  # and by no means so much
        ([1e-6], [1e-6], [5e-5], F32, True),  # answers that are all but certain
        ([1.0, 5.0], [1.0, 5.0], [1.0, 5.1], F32, False),
    ],
)
def test_what_rounding_may_do_follows_from_the_dtype_and_from_other_batches(plain, again, fast, dtype, equal):
    why = why_unequal(lambda: fast, plain, again, dtype)
    assert (why is None) == equal
    assert equal or "differs from the plain path by" in why


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_fast_path_that_is_not_finite_is_not_taken(value):
    assert why_unequal(lambda: [value], [1.0], [1.0], F32) == f"it differs from the plain path by {value} of 1"


def test_where_the_plain_path_is_not_finite_nothing_is_said():
    assert why_unequal(lambda: [1.0], [math.nan], [1.0], F32) is None


def test_an_error_counts_against_the_fast_path_and_lack_of_memory_does_not():
    def raises(error):
        def compute():
            raise error

        return compute

    assert why_unequal(raises(KeyError("layer 3")), [1.0], [1.0], F32) == "KeyError: 'layer 3'"
    assert why_unequal(raises(torch.OutOfMemoryError("CUDA out of memory")), [1.0], [1.0], F32) is None
