from typing import get_args

import pytest
import torch

from heft.recipe.training import TrainingSettings
from heft.training.optimizers import OPTIMIZERS


def test_the_table_has_every_optimizer_that_a_recipe_can_name():
    assert set(OPTIMIZERS) == set(get_args(TrainingSettings.model_fields["optimizer"].annotation))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_keeps_as_many_bytes_as_the_table_says(name):
    weight = torch.nn.Parameter(torch.randn(64, 64))
    optimizer = OPTIMIZERS[name]([{"params": [weight], "weight_decay": 0.0}], 1e-3)
    weight.square().sum().backward()
    optimizer.step()
    kept = sum(s.nbytes for s in optimizer.state[weight].values() if torch.is_tensor(s))
    assert kept / weight.numel() == pytest.approx(OPTIMIZERS[name].state_bytes, abs=0.2)
