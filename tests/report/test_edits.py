"""The norms of saved edits against the edits themselves, as heft.reft computes them."""

import pytest
import torch
from report_files import write_run

from heft.compare.runs import read_run
from heft.edits.equations import EQUATIONS
from heft.errors import HeftError
from heft.reft.interventions import Intervention
from heft.report.edits import edit_size, read_edits


@pytest.mark.parametrize("name", list(EQUATIONS))
def test_norms_are_those_of_the_map_that_the_intervention_is(name):
    torch.manual_seed(0)
    unit = Intervention(name, hidden_size=6, rank=2)
    for parameter in unit.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        constant = unit(torch.zeros(1, 6))
        linear = unit(torch.eye(6)) - constant  # row i is where the i-th unit vector goes
    weights = {key: value.detach().double().numpy() for key, value in unit.named_parameters()}
    found_linear, found_constant = edit_size(name, weights)
    assert found_constant == pytest.approx(constant.norm().item(), rel=1e-5)
    if name == "lobireft":
        assert found_linear is None
    else:
        assert found_linear == pytest.approx(linear.norm().item(), rel=1e-5)


def test_a_fresh_loreft_edit_has_the_size_0():
    unit = Intervention("loreft", hidden_size=6, rank=2)
    weights = {key: value.detach().double().numpy() for key, value in unit.named_parameters()}
    assert edit_size("loreft", weights) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_a_run_s_edit_is_read_layer_by_layer(tmp_path):
    (edit,) = read_edits(read_run(write_run(tmp_path / "run")))
    assert (edit.adapter, edit.intervention, edit.group, edit.layers) == ("fine", "loreft", "last", [0, 1, 2])
    assert len(edit.linear) == len(edit.constant) == 3


def test_a_run_without_its_adapter_is_said_plainly(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    (tmp_path / "run" / "adapter" / "fine" / "adapter_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(HeftError, match="cannot be read"):
        read_edits(run)
