"""A fast path is equal to the plain one within rounding, or the reason why it is not taken is said."""

import math

import pytest
import torch

import tiny
from heft.models.equality import noise_of, rounded_otherwise, why_unequal

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


@pytest.mark.parametrize(
    ("noise", "fast", "equal"),
    [(0.0, 1.16, False), (0.1, 1.16, True), (0.1, 1.21, False), (0.4, 1.49, True), (0.4, 1.51, False)],
)
def test_where_it_is_known_how_far_rounding_moves_values_twice_that_may_differ_up_to_half(noise, fast, equal):
    why = why_unequal(lambda: [fast], [1.0], [1.0], BF16, noise)
    assert (why is None) == equal


def test_noise_is_the_farthest_that_a_value_was_moved():
    assert noise_of([0.5, -4.0], [0.6, -3.0]) == pytest.approx(0.25)
    assert noise_of([0.5, -4.0], [0.2, -4.0]) == pytest.approx(0.3)


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_embeddings_are_rounded_otherwise_by_half_a_unit_inside_alone(dtype):
    model = tiny.tiny_model().to(dtype)
    ids, layer = torch.arange(4, 12)[None], model.get_input_embeddings()
    before = layer(ids).detach()
    with rounded_otherwise(model):
        inside, again = layer(ids).detach(), layer(ids)
    with rounded_otherwise(model):
        assert torch.equal(layer(ids), inside)  # the same every time
    assert torch.equal(layer(ids), before)
    assert not torch.equal(inside, before)
    assert not torch.equal(inside, again)
    off = ((inside.double() - before.double()) / before.double()).abs()
    assert 0 < float(off.max()) <= torch.finfo(dtype).eps * 1.01


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
