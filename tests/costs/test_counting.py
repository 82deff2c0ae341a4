"""The counter that plans are compared with knows every product that heft calls."""

import pytest
import torch

from counting import counted
from heft.models.frozen_linear import product

A, B = torch.ones(3, 4, 5), torch.ones(3, 5, 6)


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: A @ B, 3 * 4 * 5 * 6),
        (lambda: torch.zeros(3, 4, 6).baddbmm_(A, B), 3 * 4 * 5 * 6),
        (lambda: torch.zeros(4, 6).addmm_(A[0], B[0]), 4 * 5 * 6),
        (lambda: torch.mm(A[0], B[0], out=torch.zeros(4, 6)), 4 * 5 * 6),
        pytest.param(
            lambda: product(A, torch.ones(6, 5), torch.ones(6)),
            3 * 4 * 5 * 6,
            marks=pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch without oneDNN"),
        ),
    ],
    ids=["matmul", "baddbmm_", "addmm_", "out", "oneDNN"],
)
def test_a_product_is_two_flops_for_each_multiplication(work, expected):
    assert counted(work) == 2 * expected
