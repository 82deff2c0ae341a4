"""How far two computations of the same thing may lie apart, from the arithmetic: the dtype, the rate, the steps.

Sums are taken in another order by another processor, library or batch, so nothing here is a figure of one machine.

A float32 sum of n terms has an error of about √n roundings of EPS each. The longest path through a model of these
tests, forward and backward, adds up fewer than 2¹⁴ terms: losses, logits and gradients differ by 2⁷ EPS of their scale.

A step of Adam is more delicate. It divides a mean of gradients by the root of the mean of their squares, so it is as
long as the learning rate however small a gradient is, and so is the error in it. The smallest of the up to 2¹³ numbers
that train in a test is about 2⁻¹³ of the largest, and its error, some EPS of the largest, some 2¹³ EPS of itself; two
are allowed, since torch's own attention functions, sdpa and eager, came 1.2 · 2¹³ EPS apart. So weights differ by as
much of the way that they can have gone, rate · steps. A missing step, or a rate that is wrong by a hundredth, is more.
Losses feel the mean of many weights, for which half of the digits is plenty.
"""

from math import sqrt

import pytest
import torch

EPS = torch.finfo(torch.float32).eps
ROUNDING = 2**7 * EPS
"""Relative difference of losses, logits and gradients of the same weights, in float32: 1.5e-5."""


def of_weights(learning_rate: float, steps: int) -> float:
    """Absolute difference of weights that were trained alike in float32."""
    return 2**14 * EPS * learning_rate * steps + 4 * EPS  # and the rounding of a weight below 4 itself


def of_sgd_weights(learning_rate: float, steps: int, norm: float) -> float:
    """Absolute difference of weights that plain SGD trained alike in float32, with gradients of at most this norm.

    A step is as exact as its gradient.
    """
    return ROUNDING * learning_rate * steps * norm + 4 * EPS


def of_losses(learning_rate: float, steps: int) -> float:
    """Relative difference of losses on the way of such a training, or after it."""
    return ROUNDING + sqrt(EPS) * learning_rate * steps


def trained_losses(expected, learning_rate: float, steps: int):
    """Losses to compare with: `assert found == trained_losses(expected, …)`."""
    return pytest.approx(expected, rel=of_losses(learning_rate, steps))


def rounded(expected):
    """Losses or the like, of the same weights, to compare with."""
    return pytest.approx(expected, rel=ROUNDING)


def assert_tensors(found, expected, tolerance: float) -> None:
    """Tensors by name, each element within an absolute tolerance."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        difference = (found[name].cpu() - tensor.cpu()).abs().max().item()
        assert difference <= tolerance, f"{name}: {difference:.3g} apart, {tolerance:.3g} allowed"


def assert_gradients(found, expected) -> None:
    """Gradients of the same weights by name, each within rounding of its largest element, or of 1."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_tensors({name: found[name]}, {name: tensor}, ROUNDING * max(1.0, tensor.abs().max().item()))
