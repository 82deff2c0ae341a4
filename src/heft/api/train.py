"""`heft.train`: a recipe from a file, from settings or from a mapping, with rows in memory where it has such."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from heft.api.progress import reporter_for
from heft.api.result import Result
from heft.recipe.files import load_recipe, recipe_of_values
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Reporter

Overrides = Sequence[str] | Mapping[str, Any]
"""`["stages.fine.rank=4"]`, as on the command line, or `{"stages.fine.rank": 4}`."""


def train(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    reporter: Reporter | None = None,
    resume: bool = False,
    base_from: Iterable[Path] = (),
    *,
    overrides: Overrides = (),
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Result:
    """Train a recipe's stages, evaluate after each, and write the run directory.

    Args:
        recipe: the path of a recipe, a `heft.Recipe`, or a mapping with the keys of one. The task `rows` takes rows in
            memory: a list of dicts, a pandas DataFrame or a `datasets.Dataset` as `train` and `eval`.
        reporter: hears what happens; None shows progress as `progress` says.
        resume: continue from the last checkpoint in the run directory, or start if there is none.
        base_from: directories of runs whose evaluation of the base may be taken over.
        overrides: settings to change.
        output: directory of the run; None: the recipe's, else `runs/<name>`.
        overwrite: remove the run that is in the output directory, once this one is known to be sound.
        progress: whether progress is shown; None: in a terminal and in a notebook.

    Raises:
        HeftError: something in the recipe, its data or its model is wrong, and nothing has been written.
    """
    loaded = recipe_from(recipe, overrides, output)
    from heft.run.train import train as run_recipe

    run = run_recipe(loaded, reporter if reporter is not None else reporter_for(progress), resume, base_from, overwrite)
    return Result(run.directory, run.stages)


def recipe_from(
    recipe: Recipe | Mapping[str, Any] | str | Path, overrides: Overrides = (), output: str | Path | None = None
) -> Recipe:
    """A recipe in any of its forms, with settings changed.

    Raises:
        HeftError: anything in it is wrong.
    """
    if isinstance(recipe, Recipe) and not overrides:
        return recipe if output is None else recipe.model_copy(update={"output": str(output)})
    if isinstance(recipe, str | Path) and not isinstance(overrides, Mapping):
        return load_recipe(recipe, overrides, output)
    return recipe_of_values(load_recipe(recipe) if isinstance(recipe, str | Path) else recipe, overrides, output)
