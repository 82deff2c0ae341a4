"""Out of memory, a sweep takes smaller passes and finds what it finds with more."""

import pytest
import torch
from torch import nn

from heft.errors import HeftError
from heft.runtime.reporter import Reporter
from heft.sweep.forward import PackedForward
from heft.sweep.learner import Learner
from heft.sweep.retry import TokenBudget
from tolerance import ROUNDING, rounded

FINE = "{method: reft, positions: l2, rank: 2, steps: 3, batch_size: 4, optimizer: sgd, learning_rate: 1e-2}"


class Notes(Reporter):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def found(run, monkeypatch, grid, name, losses=None):
    """A sweep whose passes run as `losses` says: gradients of every step, weights, results, notes, random states."""
    gradients, states, notes = [], [], Notes()
    plain = Learner.update

    def update(learner):
        states.append(torch.get_rng_state())
        gradients.append([p.grad.clone() for p in learner.parameters.values()])
        return plain(learner)

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", update)
        if losses is not None:
            patched.setattr(PackedForward, "losses", losses)
        _, sweep, learners = run(FINE, grid, name, to=notes)
    weights = [[p.detach() for p in learner.parameters.values()] for learner in learners]
    return gradients, weights, sweep.results, [note for note in notes.said if "out of memory" in note], states


def with_room_for(most, error=torch.OutOfMemoryError, trains=True):
    """Passes, in training or else in evaluation, that fail after all is computed if they hold more copies."""
    plain = PackedForward.losses

    def losses(passes, copies):
        result = plain(passes, copies)
        if len(copies) > most and torch.is_grad_enabled() == trains:
            raise error("CUDA out of memory. Tried to allocate 1 GiB.")
        return result

    return losses


def assert_equal(one, other):
    for mine, theirs in zip(one[0] + one[1], other[0] + other[1], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert (a - b).abs().max() <= ROUNDING * max(1.0, b.abs().max().item())
    assert [r.name for r in one[2]] == [r.name for r in other[2]]
    assert [r.loss for r in one[2]] == rounded([r.loss for r in other[2]])


@pytest.mark.parametrize(
    ("grid", "most", "trains"),
    [
        ("{seed: [0, 1], dropout: [0.0, 0.3]}", 8, True),  # copies of two configurations
        pytest.param("{seed: [0, 1], dropout: [0.0, 0.3]}", 4, True, marks=pytest.mark.long),
        ("{rank: [1, 2], positions: [l2, f1+l1]}", 1, True),
        ("{seed: [0, 1], dropout: [0.0, 0.3]}", 1, False),
    ],
)
def test_smaller_passes_give_the_same_gradients_weights_and_results(run, monkeypatch, grid, most, trains):
    short = found(run, monkeypatch, f"{{grid: {grid}}}", "short", with_room_for(most, trains=trains))
    whole = found(run, monkeypatch, f"{{grid: {grid}}}", "whole")
    assert short[3]
    assert len(short[3]) <= 6, "what did not fit is not tried at every step"
    assert "out of memory: a pass reduced to " in short[3][0]
    assert not whole[3]
    assert_equal(short, whole)


def test_running_out_of_memory_inside_a_dropout_restores_the_random_numbers(run, monkeypatch):
    grid, plain, calls = "{grid: {seed: [0, 1], dropout: [0.3]}}", nn.Dropout.forward, []

    def forward(dropout, hidden):
        result = plain(dropout, hidden)
        if dropout.p == 0.3 and dropout.training:
            calls.append(None)
            if len(calls) == 7:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return result

    whole = found(run, monkeypatch, grid, "whole")
    with monkeypatch.context() as patched:
        patched.setattr(nn.Dropout, "forward", forward)
        short = found(run, monkeypatch, grid, "short")
    assert len(short[3]) == 1
    assert all(torch.equal(a, b) for a, b in zip(short[4], whole[4], strict=True))
    assert_equal(short, whole)


def test_no_room_for_one_row_is_an_error_with_a_way_out(run, monkeypatch):
    with pytest.raises(HeftError, match="a single row of one configuration; lower task.max_length"):
        found(run, monkeypatch, "{grid: {rank: [1, 2]}}", "short", with_room_for(0))


def test_other_errors_are_not_taken_for_it(run, monkeypatch):
    def losses(passes, copies):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        found(run, monkeypatch, "{grid: {rank: [1, 2]}}", "short", losses)


def test_a_budget_never_grows_and_nothing_exceeds_it_before_memory_runs_out():
    notes = []
    budget = TokenBudget(100, notes.append)
    assert not budget.is_exceeded_by(1000)
    budget.shrink([40, 45])
    budget.shrink([400, 200])
    assert budget.tokens == 45
    assert (budget.is_exceeded_by(46), budget.is_exceeded_by(45)) == (True, False)
    assert len(notes) == 2
