"""A new intervention: its class, and then all that a user does with it. Run by test_new_intervention.py.

The class comes first, since settings take the names of interventions from the table when they are imported.
"""

# ruff: noqa: E402

import sys
from pathlib import Path

from heft.edits.equations import Equation


class TwoReft(Equation, name="tworeft"):
    """R has orthonormal rows."""

    text = "h + (Wh + b)R"
    linear_norm = "‖W‖, a Frobenius norm"

    def start(self, new):
        return {"rotation": new.orthonormal(), "weight": new.zero_basis(), "bias": new.zeros()}

    def difference(self, h, w, linear, activation):
        projected = linear(h, w.weight, w.bias)
        return projected if activation is None else activation(projected)

    def matrix(self, w):
        return w.weight


import torch
from peft import PeftModel

from heft import load, train
from heft.compare.runs import read_run
from heft.costs.stage import stage_costs
from heft.data.rows import read_data
from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.reft.layer import layers_of
from heft.report.edits import read_edits
from heft.runtime.reporter import Reporter
from heft.verify import verify


def main(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    assert stage_costs(recipe, "fine", read_data(recipe, Reporter()).train).flops(1.0) > 0
    run = train(recipe)
    adapter = recipe.output_dir / "adapter"
    model, _ = load(adapter)
    units = [unit for layer in layers_of(model).values() for _, unit in layer.units()]
    assert units
    assert all(isinstance(unit.equation, TwoReft) and unit.weight.any() for unit in units), "nothing was trained"
    alone = PeftModel.from_pretrained(load_base(recipe.model).model, str(adapter / "fine"))
    ids = torch.arange(3, 13)[None]
    assert torch.equal(alone(input_ids=ids).logits, model(input_ids=ids).logits)
    assert verify(adapter, rows=2).ok
    (edit,) = read_edits(read_run(recipe.output_dir))
    for unit, linear, constant in zip(units, edit.linear, edit.constant, strict=True):
        assert abs(unit.weight.norm().item() - linear) < 1e-5
        assert abs(unit.bias.norm().item() - constant) < 1e-5
    print(run)


main(Path(sys.argv[1]))
