"""Studies of recipes whose first stage takes an adapter that exists."""

import pytest

from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.run.train import train
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
