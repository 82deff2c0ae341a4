"""A new intervention takes one class in heft.edits.equations."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from heft.edits.equations import EQUATIONS
from heft.edits.settings import InterventionName
from heft.reft.interventions import Intervention


def test_every_intervention_has_its_name_in_settings():
    assert list(EQUATIONS) == list(get_args(InterventionName))


@pytest.mark.parametrize("name", EQUATIONS)
def test_an_activation_acts_where_the_facts_say_that_there_is_a_projection(name):
    torch.manual_seed(0)
    plain, curved = (Intervention(name, 6, 2, activation) for activation in (None, "tanh"))
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter)
    curved.load_state_dict(plain.state_dict())
    hidden_ND = torch.randn(3, 6)
    assert torch.equal(plain(hidden_ND), curved(hidden_ND)) != EQUATIONS[name].has_projection


def test_a_new_intervention_is_configured_trained_saved_loaded_verified_and_reported(recipe_file, tmp_path):
    stages = "{fine: {method: reft, intervention: tworeft, rank: 2, positions: l2, steps: 3, learning_rate: 0.1}}"
    recipe = recipe_file(stages, rest=f"output: {tmp_path / 'run'}")
    script = Path(__file__).with_name("new_intervention.py")
    done = subprocess.run([sys.executable, script, recipe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
