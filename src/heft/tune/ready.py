"""Whether a search may begin: what can be checked before torch takes its seconds."""

from heft.cluster.connection import RayOptions
from heft.errors import HeftError
from heft.recipe.recipe import Recipe
from heft.run.begun import is_begun, require_same_search
from heft.run.replace import require_output
from heft.tune.budget import Budget
from heft.tune.space import require_tunable


def require_ready(recipe: Recipe, budget: Budget, resume: bool, overwrite: bool) -> None:
    """Raise a HeftError where the recipe cannot be searched, or something is in the way in its directory."""
    if resume and overwrite:
        raise HeftError("--resume continues a search and --overwrite removes it; give one of them")
    require_tunable(recipe)
    if resume and is_begun(recipe.output_dir):
        require_same_search(recipe, budget.text)
    else:
        require_output(recipe, overwrite)


def require_places_for(budget: Budget, on_ray: RayOptions | None) -> None:
    """Raise a HeftError where a budget cannot be spent on a cluster."""
    if on_ray is not None and budget.kind == "seconds":
        raise HeftError(
            f"--budget {budget.text}: how long trials are would follow from how fast some node is, and a search on Ray"
            " has the results of one process; give FLOPs (2e15flop) or passes of plain LoRA (3epochs), or leave out"
            " --ray"
        )
