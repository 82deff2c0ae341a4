"""The paper's studies: they load, say what is whose, and can be planned with stand-ins for what the Hub holds."""

import json
from pathlib import Path

import pytest

from heft.cli.show import ConsoleReporter
from heft.cli.study import run_study
from heft.study.files import load_study

PAPER = Path(__file__).parents[2] / "src" / "heft" / "recipes" / "paper"
STUDIES = sorted(PAPER.glob("*.yaml"))
RECIPES = sorted((PAPER / "arms").glob("*.yaml"))


def epochs(recipe):
    return [stage.epochs for stage in recipe.stages.values()]


def test_the_studies_have_the_arms_of_the_paper_and_those_its_abstract_leaves_out():
    paper, twin = load_study(PAPER / "llama_2_7b.yaml"), load_study(PAPER / "embedded.yaml")
    assert [path.name for path in STUDIES] == ["embedded.yaml", "llama_2_7b.yaml"]
    assert {arm: epochs(recipe) for arm, recipe in paper.recipes.items()} == {
        "heft": [1, 2], "lora_20": [20], "reft_20": [20],
        "lora_3": [3], "reft_3": [3], "joint_3": [3], "reft_then_lora_3": [2, 1], "lora_flops": [3],
        "split_2_1": [2, 1], "split_1h_1h": [1.5, 1.5],
    }  # fmt: skip
    assert paper.settings.base
    assert paper.settings.arms["lora_flops"].budget.flops_of == "heft"
    assert {recipe.model.name for recipe in paper.recipes.values()} == {"meta-llama/Llama-2-7b-hf"}
    assert {recipe.model.name for recipe in twin.recipes.values()} == {"embedded:smollm2-135m-instruct"}
    assert {arm: epochs(recipe) for arm, recipe in twin.recipes.items()} == {
        arm: epochs(recipe) for arm, recipe in paper.recipes.items()
    }


def test_the_arms_are_alike_in_all_but_their_stages():
    for path in STUDIES:
        first, *others = (recipe.model_dump(exclude={"name", "stages"}) for recipe in load_study(path).recipes.values())
        assert all(other == first for other in others)


@pytest.mark.parametrize("path", [*STUDIES, *RECIPES], ids=lambda path: path.name)
def test_every_file_says_what_it_is_for(path):
    assert path.read_text(encoding="utf-8").startswith("# For ")


def test_a_dry_run_plans_every_arm_and_writes_nothing(tmp_path, capsys):
    for split, numbers in (("train", range(32)), ("validation", range(32, 64))):
        rows = [
            {
                "question": f"is {n} even",
                "passage": f"The number {n} was asked for.",
                "answer": n % 2 == 0,
                "title": "n",
            }
            for n in numbers
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stand_ins = ["set.model={name: 'random:tiny-llama'}", f"set.task.source={tmp_path.as_posix()}"]
    run_study(PAPER / "llama_2_7b.yaml", ConsoleReporter(), stand_ins, tmp_path / "out", dry_run=True, on_ray=None)
    printed = capsys.readouterr().out
    for arm in load_study(PAPER / "llama_2_7b.yaml").recipes:
        assert arm in printed
    assert "10 arms with seeds 0, 1, 2: 30 runs" in printed
    assert "lora_flops: budget" in printed
    assert not (tmp_path / "out").exists()
