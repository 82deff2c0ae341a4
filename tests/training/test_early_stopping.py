"""What validation losses decide, by hand-made ones."""

import pytest
import torch

from heft.recipe.recipe import LoraStage
from heft.training.early_stopping import EarlyStopping

HELD_OUT = {"method": "lora", "holdout": 0.25}


def after(losses, stopping, weight=None):
    """The step at which it stopped, None for none, where the weight is the number of the step."""
    weight = torch.zeros(1) if weight is None else weight
    for step, loss in enumerate(losses, start=1):
        weight.fill_(step)
        stopping.update(step, loss, {"w": weight})
        if stopping.reason is not None:
            return step
    return None


@pytest.mark.parametrize(
    ("losses", "stopped"),
    [
        ([1.0, 0.875, 0.8125], 3),  # each is lower than the one before, by less than 0.25
        ([1.0, 0.875, 0.5, 0.5, 0.375], 5),
        ([1.0, 0.75, 0.5], 3),  # by no more than it
        ([1.0, 0.7, 0.4, 0.1], None),
        ([1.0, 1.5, 0.7, 0.9, 0.4], None),  # never twice in a row
        ([1.0, 1.5, 1.2], 3),  # lower than the last one, and not than the lowest
    ],
)
def test_it_stops_after_so_many_evaluations_that_lowered_the_lowest_loss_by_too_little(losses, stopped):
    stage = LoraStage(**HELD_OUT, early_stopping={"patience": 2, "min_delta": 0.25})
    assert after(losses, EarlyStopping(stage)) == stopped


def test_without_the_setting_it_never_stops():
    assert after([1.0, 2.0, 3.0, 4.0, 5.0], EarlyStopping(LoraStage(**HELD_OUT))) is None


@pytest.mark.parametrize(("keeps_best", "left"), [(True, 2), (False, 4)])
def test_the_first_weights_of_the_lowest_loss_come_back_where_they_are_asked_for(keeps_best, left):
    stopping, weight = EarlyStopping(LoraStage(**HELD_OUT, best_checkpoint=keeps_best)), torch.zeros(1)
    after([1.0, 0.5, 0.5, 0.75], stopping, weight)
    stopping.restore_best({"w": weight})
    assert weight.item() == left


def test_one_that_takes_up_the_state_of_another_goes_on_as_that_one():
    stage = LoraStage(**HELD_OUT, best_checkpoint=True, early_stopping={"patience": 3, "min_delta": 0.0})
    first, resumed, weight = EarlyStopping(stage), EarlyStopping(stage), torch.zeros(1)
    after([0.5, 0.75, 0.75], first, weight)
    resumed.state |= first.state
    resumed.update(4, 0.625, {"w": weight})
    assert resumed.reason is not None
    assert "lowest before was 0.5000 at step 1" in resumed.reason
    resumed.restore_best({"w": weight})
    assert weight.item() == 1
