"""Edits that keep out of directions of the hidden state: exactly, at every step, and in what is saved."""

import copy

import numpy as np
import pytest
import torch

from heft.edits.arithmetic import ACTIVATIONS, orthonormal_rows
from heft.edits.equations import EQUATIONS
from heft.reft.interventions import Intervention
from heft.reft.outside import Outside, span_of

HIDDEN, RANK, TOKENS, DIRECTIONS = 16, 3, 5, 4
BOTH_SIDES = [(name, None, side) for name in EQUATIONS for side in ("write", "both")]
WITH_ACTIVATION = [(name, "silu", side) for name in ("loreft", "noreft", "direft") for side in ("write", "both")]
READ_ALONE = [("loreft", None, "read"), ("noreft", None, "read"), ("direft", None, "read"), ("direft", "gelu", "read")]
CASES = BOTH_SIDES + WITH_ACTIVATION + READ_ALONE
IDENTITY_AT_START = ("loreft", "noreft", "direft", "lobireft")


def directions(seed=1, count=DIRECTIONS):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(HIDDEN, count, generator=generator, dtype=torch.double))[0].float()


def orthogonal_unit(name, activation, side):
    torch.manual_seed(0)
    unit = Intervention(name, HIDDEN, RANK, activation)
    unit.keep_out(directions(), side)
    return unit


def largest_violation(unit, side):
    """What the edit adds within the directions, and how much it changes with the hidden state's part in them.

    Found from the edit as a function, relative to its size, so whatever its weights are.
    """
    U, h = directions(), torch.randn(TOKENS, HIDDEN)
    with torch.no_grad():
        edit, moved = unit(h), unit(h + torch.randn(TOKENS, DIRECTIONS) @ U.T)
    found = []
    if side != "read":
        found.append((edit @ U).abs().max())
    if side != "write":
        found.append((moved - edit).abs().max() / 3)  # the hidden state moved by some units
    return (max(found) / edit.abs().max().clamp(min=1)).item()


@pytest.mark.parametrize(("name", "activation", "side"), CASES)
def test_the_edit_is_orthogonal_at_every_step_of_a_rough_optimizer_and_after_folding(name, activation, side):
    unit = orthogonal_unit(name, activation, side)
    optimizer = torch.optim.AdamW(unit.parameters(), lr=0.1, weight_decay=0.1)
    target = torch.randn(TOKENS, HIDDEN)
    before = [p.detach().clone() for p in unit.parameters()]
    for _ in range(30):
        assert largest_violation(unit, side) < 1e-6
        h = torch.randn(TOKENS, HIDDEN)
        (h + unit(h) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert any(not torch.equal(old, new) for old, new in zip(before, unit.parameters(), strict=True))
    h = torch.randn(TOKENS, HIDDEN)
    trained = unit(h)
    unit.fold()
    assert unit.outside is None
    assert torch.allclose(unit(h), trained, atol=1e-5)
    assert largest_violation(unit, side) < 1e-6


@pytest.mark.parametrize(("name", "activation", "side"), CASES)
def test_folded_weights_are_the_same_edit_in_a_plain_adapter(name, activation, side):
    unit = orthogonal_unit(name, activation, side)
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    keys = set(unit.state_dict())
    unit.fold()
    plain = Intervention(name, HIDDEN, RANK, activation)
    assert set(plain.state_dict()) == set(unit.state_dict()) == keys
    plain.load_state_dict(unit.state_dict())
    h = torch.randn(TOKENS, HIDDEN)
    assert torch.equal(plain(h), unit(h))
    if unit.rotation is not None:
        assert torch.allclose(unit.rotation @ unit.rotation.mT, torch.eye(RANK), atol=1e-6)


def by_hand(name, unit, side, act, h):
    """The edit in float64 with P written out as a d×d matrix."""
    get = {key: value.detach().double().requires_grad_() for key, value in unit.named_parameters()}
    U = directions().double()
    everything = torch.eye(HIDDEN, dtype=torch.double)
    writes, reads = (everything - U @ U.T if side in (one, "both") else everything for one in ("write", "read"))
    h = h.double()
    W, b = get.get("weight"), get["bias"]
    B = orthonormal_rows(get["rotation"] @ writes) if "rotation" in get else get["basis"] @ writes
    Ph = h @ reads
    difference = {
        "loreft": lambda: act(Ph @ W.T + b) - Ph @ B.T,
        "noreft": lambda: act(Ph @ W.T + b) - Ph @ B.T,
        "direft": lambda: act(Ph @ W.T + b),
        "consreft": lambda: b - Ph @ B.T,
        "lobireft": lambda: b.expand(len(h), -1),
    }[name]()
    return difference @ B, get


@pytest.mark.parametrize(("name", "activation", "side"), CASES)
def test_edit_and_gradients_are_those_of_the_equation_with_its_projector_written_out(name, activation, side):
    unit, h, weights = orthogonal_unit(name, activation, side), torch.randn(TOKENS, HIDDEN), torch.randn(TOKENS, HIDDEN)
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    expected, get = by_hand(name, unit, side, ACTIVATIONS[activation] if activation else lambda x: x, h)
    edit = unit(h)
    assert torch.allclose(edit.double(), expected, atol=1e-4)
    (edit * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    for key, parameter in unit.named_parameters():
        assert torch.allclose(parameter.grad.double(), get[key].grad, atol=1e-4), key


@pytest.mark.parametrize(("name", "activation", "side"), [c for c in CASES if c[1] is None])
def test_it_starts_at_the_identity_where_the_equation_does(name, activation, side):
    unit = orthogonal_unit(name, activation, side)
    edit = unit(torch.randn(TOKENS, HIDDEN)).abs().max()
    assert edit < 1e-6 if name in IDENTITY_AT_START else edit > 0.01


def test_an_edit_that_only_reads_outside_starts_as_a_plain_one():
    torch.manual_seed(0)
    plain = Intervention("loreft", HIDDEN, RANK)
    unit = copy.deepcopy(plain)
    unit.keep_out(directions(), "read")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), unit.parameters(), strict=True))


@pytest.mark.parametrize("name", EQUATIONS)
def test_an_edit_that_keeps_out_of_nothing_is_folded_to_the_bit(name):
    unit = Intervention(name, HIDDEN, RANK, None)
    before = {key: value.clone() for key, value in unit.state_dict().items()}
    unit.fold()
    assert all(torch.equal(before[key], value) for key, value in unit.state_dict().items())


def test_a_rotation_all_but_within_the_directions_is_still_made_orthogonal():
    unit = orthogonal_unit("lobireft", None, "write")
    with torch.no_grad():
        unit.rotation.add_(1e4 * torch.randn(RANK, DIRECTIONS) @ directions().T)
    rows = orthonormal_rows(unit.raw_rows())
    assert (rows @ directions()).abs().max() < 1e-6
    assert torch.allclose(rows @ rows.mT, torch.eye(RANK), atol=1e-6)


def test_directions_are_no_part_of_what_is_saved_and_train_nothing():
    unit = orthogonal_unit("loreft", None, "both")
    assert set(unit.state_dict()) == {"rotation", "weight", "bias"}
    assert len(list(unit.parameters())) == 3


def test_it_projects_in_any_dtype_and_without_gradient_to_the_directions():
    outside = Outside(directions(), "both")
    assert outside(torch.randn(2, HIDDEN, dtype=torch.bfloat16)).dtype == torch.float32
    assert not outside.directions.requires_grad


def test_a_span_is_that_of_an_svd_of_all_columns_whatever_their_lengths():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(HIDDEN, 3)), 1e-4 * generator.normal(size=(HIDDEN, 2))
    given = [torch.tensor(matrix, dtype=torch.float32) for matrix in (first, second, np.zeros((HIDDEN, 4)))]
    U = span_of(given, HIDDEN).double().numpy()
    assert U.shape == (HIDDEN, 5)
    assert np.allclose(U.T @ U, np.eye(5), atol=1e-6)
    q, _ = np.linalg.qr(np.concatenate([first, 1e4 * second], axis=1))
    assert np.linalg.svd(q.T @ U, compute_uv=False) == pytest.approx([1.0] * 5, abs=1e-5)  # cosines of angles


def test_a_span_has_no_direction_twice_and_none_for_zeros_or_for_nothing():
    column = torch.randn(HIDDEN, 1)
    assert span_of([column, 3 * column, torch.zeros(HIDDEN, 2)], HIDDEN).shape == (HIDDEN, 1)
    assert span_of([torch.zeros(HIDDEN, 2)], HIDDEN).shape == (HIDDEN, 0)
    assert span_of([], HIDDEN).shape == (HIDDEN, 0)
