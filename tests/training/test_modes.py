"""How a model computes while a stage trains: repeatable kernels on CUDA, and only meanwhile."""

import pytest
import torch

from heft.training.modes import repeatable


def state():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_on_cuda_torch_is_asked_for_kernels_that_repeat_and_an_error_leaves_its_settings(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before, meanwhile = state(), []

    def fail():
        with repeatable(torch.device("cuda")):
            meanwhile.append(state())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert meanwhile == [(True, True, False)]
    assert state() == before == (False, False, True)


def test_on_a_cpu_nothing_changes():
    before = state()
    with repeatable(torch.device("cpu")):
        assert state() == before
