"""Studies of recipes whose first stage takes an adapter that exists."""

import pytest

from heft.errors import HeftError
from heft.plan.planner import make_plan
from heft.recipe.files import load_recipe
from heft.run.train import train
from heft.runtime.reporter import Reporter
from heft.study.budgets import Budgets
from heft.study.files import load_study
from heft.study.runner import run_study
from tiny_recipe import write_recipe


@pytest.fixture
def arms(tmp_path):
    """Two recipes that differ in the fine stage on one LoRA, which is trained first."""
    lora = write_recipe(tmp_path, "{coarse: {method: lora, rank: 2, steps: 2}}", file="lora.yaml")
    first = train(load_recipe(lora, output=tmp_path / "first")).directory
    for name, rank in (("low", 1), ("high", 2)):
        stages = f"{{coarse: {{method: lora, from: '{first}'}}, fine: {{method: reft, rank: {rank}, steps: 2}}}}"
        write_recipe(tmp_path, stages, file=f"{name}.yaml")
    return tmp_path


def study(folder, more=""):
    text = "name: s\nseeds: [0, 1]\nreference: low\narms:\n  low: {recipe: low.yaml}\n  high: {recipe: high.yaml}\n"
    (folder / "study.yaml").write_text(text + more)
    return load_study(folder / "study.yaml", output=folder / "out")


def test_arms_may_start_from_one_adapter(arms):
    result = run_study(study(arms))
    assert {pair.words for pair in result.comparison.pairs}
    assert (result.directory / "comparison.md").is_file()


def test_a_budget_cannot_be_shared_out_to_a_stage_that_trains_nothing(arms):
    with pytest.raises(HeftError, match=r"low.yaml:\d+: stages.coarse.from: trains nothing, so no budget"):
        study(arms, "budget: {steps: 4}\n")


@pytest.mark.parametrize("kind", [pytest.param("flops", marks=pytest.mark.long), "spent_flops", "seconds"])
def test_what_an_arm_with_a_frozen_stage_takes_can_be_the_budget_of_another(tmp_path, kind):
    """It is what its other stage takes, as the plan has it: behind a LoRA of last tokens it computes its prefixes."""
    lora = write_recipe(tmp_path, "{coarse: {method: lora, positions: l4+, rank: 2, steps: 2}}", file="lora.yaml")
    first = train(load_recipe(lora, output=tmp_path / "first")).directory
    fine = "fine: {method: reft, positions: l2, rank: 2, epochs: 2, batch_size: 8}"
    write_recipe(tmp_path, f"{{coarse: {{method: lora, from: '{first}'}}, {fine}}}", file="frozen.yaml")
    text = f"name: s\narms:\n  a: {{recipe: lora.yaml, budget: {{{kind}_of: b}}}}\n  b: {{recipe: frozen.yaml}}\n"
    (tmp_path / "study.yaml").write_text(text)
    budget = Budgets(load_study(tmp_path / "study.yaml"), {}, Reporter()).resolve("a")
    assert budget.amount > 0
    if kind != "seconds":
        planned = make_plan(load_recipe(tmp_path / "frozen.yaml"), probe_seconds=0).stages[1]
        assert budget.amount == pytest.approx(planned.flops if kind == "spent_flops" else planned.plain_flops)
