"""R stays orthonormal whatever is done to its raw matrix (mistakes 1 and 2 of others)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.optimization import Adafactor

from heft.edits.arithmetic import orthonormal_rows
from heft.reft.interventions import Intervention

HIDDEN, RANK = 24, 5


def random_matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance_from_orthonormal(rows: torch.Tensor) -> float:
    gram = rows.double() @ rows.double().mT
    return (gram - torch.eye(gram.shape[-1], dtype=torch.float64)).abs().max().item()


@given(rank=st.integers(1, 8), extra=st.integers(0, 40), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_rows_are_orthonormal_and_span_the_rows_of_the_raw_matrix(rank, extra, seed):
    raw = random_matrix(rank, rank + extra, seed=seed).double()
    rows = orthonormal_rows(raw)
    assert distance_from_orthonormal(rows) < 1e-8
    assert torch.allclose(raw @ rows.mT @ rows, raw, atol=1e-8)


def test_it_is_the_q_of_a_qr_decomposition_with_positive_diagonal():
    raw = random_matrix(RANK, HIDDEN)
    q, r = torch.linalg.qr(raw.double().mT)
    assert torch.allclose(orthonormal_rows(raw).double(), (q * r.diagonal().sign()).mT, atol=1e-6)


def test_an_orthonormal_matrix_is_left_as_it_is():
    raw = torch.nn.init.orthogonal_(torch.empty(RANK, HIDDEN))
    assert torch.allclose(orthonormal_rows(raw), raw, atol=1e-6)


@pytest.mark.parametrize("scale", [0.001, 1000.0])
def test_the_length_of_the_raw_rows_does_not_matter(scale):
    raw = random_matrix(RANK, HIDDEN)
    assert torch.allclose(orthonormal_rows(raw * scale), orthonormal_rows(raw), atol=1e-6)


@pytest.mark.parametrize("hidden", [32, 96, 576])
def test_matrices_are_the_same_to_the_bit_alone_and_stacked(hidden):
    raws = random_matrix(9, 6, hidden)
    stacked = orthonormal_rows(raws)
    assert all(torch.equal(stacked[i], orthonormal_rows(raws[i])) for i in range(9))


def test_its_gradient_is_that_of_finite_differences():
    raw = random_matrix(3, 7).double().requires_grad_()
    weights = random_matrix(3, 7, seed=1).double()
    assert torch.autograd.gradcheck(lambda a: (orthonormal_rows(a) * weights).sum(), (raw,))


@pytest.mark.parametrize("entry", [0.0, float("nan")])
def test_rows_that_span_no_subspace_are_an_error(entry):
    raw = random_matrix(3, 7)
    raw[1] = entry
    with pytest.raises(torch.linalg.LinAlgError):
        orthonormal_rows(raw)


@pytest.mark.parametrize("gap", [1e-3, 1e-5, 1e-7])
def test_rows_that_are_all_but_dependent_still_give_orthonormal_ones(gap):
    raw = random_matrix(RANK, HIDDEN)
    raw[2] = raw[0] + raw[1] + gap * raw[3]
    assert distance_from_orthonormal(orthonormal_rows(raw)) < 1e-6


class SignDescent(torch.optim.Optimizer):
    """Steps by the sign of the gradient with decoupled decay, as Lion does."""

    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.mul_(0.99).sub_(0.01 * parameter.grad.sign())


OPTIMISERS = {
    "adamw_with_weight_decay_10": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=10.0),
    "sgd_with_large_steps": lambda p: torch.optim.SGD(p, lr=5.0, momentum=0.9),
    "adafactor": lambda p: Adafactor(p, lr=1e-2, relative_step=False, scale_parameter=True, weight_decay=0.1),
    "lion_like_signs": SignDescent,
}


@pytest.mark.parametrize("optimizer", OPTIMISERS)
@pytest.mark.parametrize("intervention", ["loreft", "consreft", "lobireft"])
def test_mistake_1_no_optimizer_and_no_weight_decay_makes_r_less_orthonormal(optimizer, intervention):
    torch.manual_seed(0)
    unit = Intervention(intervention, HIDDEN, RANK)
    torch.nn.init.normal_(unit.bias)
    start = orthonormal_rows(unit.rotation.detach())
    hidden, target = random_matrix(16, HIDDEN, seed=2), random_matrix(16, HIDDEN, seed=3)
    optimizer = OPTIMISERS[optimizer]([unit.rotation])
    for _ in range(200):
        optimizer.zero_grad()
        (hidden + unit(hidden) - target).square().mean().backward()
        optimizer.step()
    end = orthonormal_rows(unit.rotation.detach())
    assert distance_from_orthonormal(end) < 1e-5
    assert (end - start).abs().max() > 1e-2  # it did move


def test_mistake_2_nothing_of_size_d_by_d_is_kept_or_computed():
    hidden_size, largest = 512, 0

    def note(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    unit = Intervention("loreft", hidden_size, 4)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        unit(torch.randn(8, hidden_size)).sum().backward()
    assert 0 < largest <= 8 * hidden_size
    assert sum(t.numel() for t in unit.state_dict().values()) == 2 * 4 * hidden_size + 4
