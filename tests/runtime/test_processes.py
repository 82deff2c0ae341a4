"""Processes and graphics cards: one for each, or a message in words."""

import pytest
import torch

from heft.errors import HeftError
from heft.runtime import distributed


def test_more_processes_than_graphics_cards_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(HeftError, match="2 processes were started and this machine has 1 .*; start 1, or"):
        distributed.init(torch.device("cuda"))


def test_a_process_group_of_one_process_is_left_too():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    distributed.shutdown()
    assert not torch.distributed.is_initialized()
    distributed.shutdown()  # and where there is none, nothing happens
