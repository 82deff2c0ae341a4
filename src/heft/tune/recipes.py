"""Recipes of the arms for `heft train`, the winner's among them, and a study that compares them with several seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heft.recipe.files import dump_recipe, with_rows_as_files
from heft.recipe.recipe import KINDS, JointStage, Recipe, Stage
from heft.settings.files import to_yaml
from heft.storage.atomic import write_text
from heft.text.units import percent
from heft.tune.chosen_by import ChosenBy
from heft.tune.report import Findings
from heft.tune.trial import Outcome, file_name, recipe_of_stages
from heft.tune.verdict import ArmResult

SEEDS = (0, 1, 2, 3, 4)
_CLASSES: dict[str, type[Stage]] = {**KINDS, "joint": JointStage}


def stages_of(outcome: Outcome) -> dict[str, Stage]:
    """A trial's stages."""
    return {
        name: _CLASSES[values["method"]].model_validate(values, by_alias=True)
        for name, values in outcome.stages.items()
    }


def arm_recipe(recipe: Recipe, arm: str, outcome: Outcome, more: float) -> Recipe:
    """A trial as a recipe that trains on all rows, each as often: `more` times the rows, so as many times the steps."""
    stages = {name: stage.model_copy(update=_on_all_rows(stage, more)) for name, stage in stages_of(outcome).items()}
    return recipe_of_stages(recipe, stages, f"{recipe.name}-{file_name(arm)}")


def _on_all_rows(stage: Stage, more: float) -> dict[str, Any]:
    return {"holdout": 0.0, "evaluate_every": None, "steps": round(stage.steps * more)}


def write_recipes(folder: Path, recipe: Recipe, findings: Findings, more: float) -> None:
    """Write arms/<arm>.yaml, best.yaml and study.yaml; `more` as for `arm_recipe`."""
    winner, budget, by = findings.winner, findings.budget, findings.chosen_by
    (folder / "arms").mkdir(exist_ok=True)
    for result in findings.results:
        own = with_rows_as_files(arm_recipe(recipe, result.arm, result.best, more), "../rows")
        write_text(
            folder / "arms" / f"{file_name(result.arm)}.yaml", header(recipe, result, budget, by) + dump_recipe(own)
        )
    best = with_rows_as_files(arm_recipe(recipe, winner.arm, winner.best, more))
    write_text(folder / "best.yaml", header(recipe, winner, budget, by) + dump_recipe(best))
    write_text(folder / "study.yaml", _study(recipe, findings.results))


def header(recipe: Recipe, result: ArmResult, budget: str, by: ChosenBy) -> str:
    """How the recipe was found, as comments of YAML."""
    best = result.best
    share = next(iter(best.stages.values()))["holdout"]
    accuracy = "" if best.accuracy is None else f", accuracy {percent(best.accuracy)}"
    trainings = f" (mean of {', '.join(map(by.figure, best.seed_losses))})" if best.seed_losses else ""
    sets = " ".join(
        f"--set stages.{name}.{key}={value!r}"
        for name, stage in best.stages.items()
        for key, value in (("steps", stage["steps"]), ("holdout", share), ("evaluate_every", stage["steps"]))
    )
    return (
        f"# The best of arm {result.arm} in heft tune of {recipe.name} with a budget of {budget}.\n"
        f"# On {len(best.row_losses):,} validation rows: {by.name} {by.figure(best.loss)}{trainings}{accuracy}.\n"
        "# It was chosen by these rows, so an evaluation must use other rows. Here all training rows are trained on,\n"
        "# each as often; to repeat the search's training:\n"
        f"# heft train THIS {sets}\n"
    )


def _study(recipe: Recipe, results: Sequence[ArmResult]) -> str:
    """A study of the arms, each as it was found."""
    arms = {file_name(each.arm): {"recipe": f"arms/{file_name(each.arm)}.yaml", "label": each.arm} for each in results}
    values: Mapping = {"name": f"{recipe.name}-study", "arms": arms, "seeds": list(SEEDS)}
    text = "# The arms as heft tune found them, with several seeds: `heft compare study.yaml` runs and compares them.\n"
    return text + to_yaml(dict(values))
