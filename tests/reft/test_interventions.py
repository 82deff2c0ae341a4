"""Each edit against its equation, written out, and where it starts (mistakes 1 and 7 of others)."""

import numpy as np
import pytest
import torch

from heft.edits.arithmetic import ACTIVATIONS, orthonormal_rows
from heft.edits.equations import EQUATIONS
from heft.reft.interventions import Intervention
from reft.support import logits, token_ids, with_reft
from tiny import tiny_model

HIDDEN, RANK, TOKENS = 12, 3, 5
IDENTITY_AT_START = ("loreft", "noreft", "direft", "lobireft")

NUMPY_ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * np.vectorize(lambda t: torch.distributions.Normal(0, 1).cdf(torch.tensor(t)).item())(x),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def trained_unit(name: str, activation: str | None = None, dropout: float = 0.0):
    torch.manual_seed(0)
    unit = Intervention(name, HIDDEN, RANK, activation, dropout)
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    return unit


def by_hand(name: str, unit, h: np.ndarray, act) -> np.ndarray:
    """h + edit, for each row vector h: a matrix M of r×d maps it to M @ h, and a row of r back to x @ M."""
    get = {key: value.detach().double().numpy() for key, value in unit.named_parameters()}
    q, r = np.linalg.qr(get["rotation"].T) if "rotation" in get else (None, None)
    R = (q * np.sign(np.diag(r))).T if q is not None else None
    W, b, W2 = get.get("weight"), get["bias"], get.get("basis")
    rows = []
    for x in h:
        rows.append(
            {
                "loreft": lambda x=x: x + (act(W @ x + b) - R @ x) @ R,
                "noreft": lambda x=x: x + (act(W @ x + b) - W2 @ x) @ W2,
                "direft": lambda x=x: x + act(W @ x + b) @ W2,
                "consreft": lambda x=x: x + (b - R @ x) @ R,
                "lobireft": lambda x=x: x + b @ R,
            }[name]()
        )
    return np.stack(rows)


CASES = [(name, None) for name in EQUATIONS]
CASES += [(name, activation) for name in ("loreft", "noreft", "direft") for activation in ACTIVATIONS]


@pytest.mark.parametrize(("name", "activation"), CASES)
def test_the_edit_is_its_equation(name, activation):
    unit, h = trained_unit(name, activation), torch.randn(TOKENS, HIDDEN)
    expected = by_hand(name, unit, h.double().numpy(), NUMPY_ACTIVATIONS[activation])
    assert np.allclose((h + unit(h)).detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("name", EQUATIONS)
def test_an_edit_without_an_activation_is_said_as_an_affine_one(name):
    unit, h = trained_unit(name), np.random.default_rng(0).normal(size=(TOKENS, HIDDEN))
    A, b, B = (tensor.numpy() for tensor in unit.affine())
    assert np.allclose(h + (h @ A.T + b) @ B, by_hand(name, unit, h, NUMPY_ACTIVATIONS[None]), atol=1e-4)
    with pytest.raises(ValueError, match="not affine"):
        trained_unit("loreft", "silu").affine()


def test_loreft_edits_nothing_outside_the_span_of_r():
    unit, h = trained_unit("loreft"), torch.randn(TOKENS, HIDDEN)
    R = orthonormal_rows(unit.rotation)
    edited = h + unit(h)
    assert torch.allclose(edited - edited @ R.mT @ R, h - h @ R.mT @ R, atol=1e-5)
    assert torch.allclose(edited @ R.mT, h @ unit.weight.mT + unit.bias, atol=1e-5)


def test_consreft_sets_the_subspace_to_the_constant():
    unit, h = trained_unit("consreft"), torch.randn(TOKENS, HIDDEN)
    R = orthonormal_rows(unit.rotation)
    assert torch.allclose((h + unit(h)) @ R.mT, unit.bias.expand(TOKENS, -1), atol=1e-5)


@pytest.mark.parametrize("name", IDENTITY_AT_START)
@pytest.mark.parametrize("positions", ["f2+l2", "all"])
def test_mistake_1_a_fresh_adapter_leaves_every_logit_as_it_was(name, positions):
    ids = token_ids(2, 9)
    assert torch.equal(
        logits(with_reft(trained=False, intervention=name, positions=positions), ids), logits(tiny_model(), ids)
    )


@pytest.mark.parametrize(
    ("name", "activation"), [("consreft", None), ("loreft", "tanh"), ("loreft", "silu"), ("noreft", "relu")]
)
def test_a_fresh_adapter_whose_equation_has_no_identity_changes_the_logits(name, activation):
    ids = token_ids(2, 9)
    model = with_reft(trained=False, intervention=name, activation=activation)
    assert not torch.allclose(logits(model, ids), logits(tiny_model(), ids), atol=1e-3)


def test_direft_with_an_activation_starts_at_the_identity_because_its_basis_is_zero():
    ids = token_ids(2, 9)
    model = with_reft(trained=False, intervention="direft", activation="sigmoid")
    assert torch.equal(logits(model, ids), logits(tiny_model(), ids))


@pytest.mark.parametrize("name", EQUATIONS)
def test_mistake_7_dropout_acts_on_the_low_rank_difference_not_the_hidden_state(name):
    unit, h = trained_unit(name, dropout=0.5), torch.randn(64, HIDDEN)
    plain = unit.eval()(h).detach()
    dropped = unit.train()(h).detach()
    basis = unit.basis.detach() if unit.rotation is None else orthonormal_rows(unit.rotation.detach())
    inverse = torch.linalg.pinv(basis)
    factors = (dropped @ inverse) / (plain @ inverse)  # n×r: what each element of the difference was multiplied by
    assert torch.allclose(dropped @ inverse @ basis, dropped, atol=1e-4)  # nothing outside the basis
    assert torch.all((factors.abs() < 1e-3) | ((factors - 2).abs() < 1e-3))  # 0 or 1/(1−p)
    assert 0.3 < (factors > 1).float().mean() < 0.7


def test_dropout_does_nothing_in_evaluation():
    with_dropout, without = trained_unit("loreft", dropout=0.9).eval(), trained_unit("loreft")
    h = torch.randn(TOKENS, HIDDEN)
    assert torch.equal(with_dropout(h), without(h))


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_half_precision_hidden_state_is_edited_in_float32_and_cast_back(name):
    unit, h = trained_unit(name), torch.randn(TOKENS, HIDDEN).bfloat16()
    assert unit(h).dtype == torch.bfloat16
    assert torch.equal(unit(h), unit(h.float()).bfloat16())
    outside = unit(h.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(unit(h.float()), outside)


@pytest.mark.parametrize("name", ["loreft", "consreft", "lobireft"])
def test_a_rotation_that_is_handed_in_is_the_one_that_is_used(name):
    unit, h = trained_unit(name), torch.randn(TOKENS, HIDDEN)
    other = orthonormal_rows(torch.randn(RANK, HIDDEN))
    assert not torch.allclose(unit(h, other), unit(h))
    assert torch.equal(unit(h, orthonormal_rows(unit.rotation)), unit(h))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("loreft", 2 * RANK * HIDDEN + RANK),
        ("noreft", 2 * RANK * HIDDEN + RANK),
        ("direft", 2 * RANK * HIDDEN + RANK),
        ("consreft", RANK * HIDDEN + RANK),
        ("lobireft", RANK * HIDDEN + RANK),
    ],
)
def test_a_unit_has_the_parameters_of_its_equation_and_no_buffers(name, count):
    unit = Intervention(name, HIDDEN, RANK)
    assert sum(p.numel() for p in unit.parameters()) == count
    assert not list(unit.buffers())


@pytest.mark.parametrize("name", EQUATIONS)
def test_every_parameter_of_a_unit_gets_the_gradient_of_finite_differences(name):
    unit, h, target = trained_unit(name), torch.randn(TOKENS, HIDDEN), torch.randn(TOKENS, HIDDEN)
    loss = ((h + unit(h)) * target).sum()
    loss.backward()
    step = 1e-2
    for parameter in unit.parameters():
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            parameter.data.add_(direction, alpha=sign * step)
            values.append(((h + unit(h)) * target).double().sum().item())
            parameter.data.sub_(direction, alpha=sign * step)
        expected = (values[0] - values[1]) / (2 * step)
        assert expected == pytest.approx((parameter.grad * direction).sum().item(), rel=2e-2, abs=2e-2)
